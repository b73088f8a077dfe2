#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Make two patches for ESPnet out of this repository's files.

set -euo pipefail

help_message=$(cat << EOF
Usage: tools/upstream/make_patches.sh [--espnet_root DIR] --output_dir DIR

Writes two patches for 'git am', first the encoders, then the recipes, with the texts of
their pull requests and of the feature request to open first.

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

while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            echo "${help_message}"
            exit 0
            ;;
        --espnet_root | --output_dir)
            [ -n "${2:-}" ] || die "$1 needs a folder"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        *) die "$1 is not an option: see --help" ;;
    esac
done
[ -n "${output_dir}" ] || die "--output_dir is missing: name a folder that is not there yet"
[ ! -e "${output_dir}" ] || die "--output_dir: ${output_dir} is there already:" \
    "remove it or name another"
[ -z "${espnet_root}" ] || check_tree "${espnet_root}"

set_up
tree="${espnet_root}"
[ -n "${tree}" ] || fetch_espnet "${espnet_version}"
make_venv "${tree}"
espnet="${tree}"
there python3 "${root}/tools/upstream/make_patches.py" \
    --espnet_root "${tree}" --output_dir "${output_dir}"
