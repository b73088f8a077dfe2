#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Make the patches for ESPnet out of this repository's files.

set -euo pipefail

help_message=$(cat << EOF
Usage: tools/upstream/make_patches.sh [--espnet_root DIR] --output_dir DIR

Writes patches for 'git am': 0001 adds the encoders and 0002 their recipes. 0003 is for an
ESPnet without those two: it takes encoders from other packages, such as this one. Beside
them are the texts of their pull requests and of the feature request to open first.

Options:
    --espnet_root  # A clean checkout or source distribution of ESPnet 202611
                   # (default: the source distribution, downloaded once).
    --output_dir   # Where to write them, a folder that is not there yet.
EOF
)
# shellcheck source=tools/upstream/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
espnet_root=
output_dir=
parse_options "$@"
[ ${#words[@]} -eq 0 ] || die "${words[0]} is not an option: see --help"
[ -n "${output_dir}" ] || die "--output_dir is missing: name a folder that is not there yet"
[ ! -e "${output_dir}" ] || die "--output_dir: ${output_dir} is there already:" \
    "remove it or name another"

set_up
make_venv
espnet="${tree}"
export GIT_CONFIG_GLOBAL=/dev/null   # no signing, no hooks
there python3 "${root}/tools/upstream/make_patches.py" "${tree}" "${output_dir}"
