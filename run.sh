#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Train, decode and score models with and without reuse of attention maps, and compare.
# See ./run.sh --help; the program is espnet_reuse/bin/compare.py.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
if [[ "${root}" = *[[:space:]\"\$\`\\]* ]]; then
    echo "run.sh: error: ESPnet's scripts do not run in a path with spaces or any of" \
        "\$ \` \" \\: move '${root}'" >&2
    exit 1
fi
export PYTHONUTF8=1   # in any locale
# the help, and what is wrong with the options, before anything is installed
python="${root}/.venv/bin/python3"
[ -x "${python}" ] || python=${PYTHON:-python3}
if "${python}" -c 'import sys; sys.exit(sys.version_info < (3, 9))'; then
    "${python}" "${root}/espnet_reuse/bin/compare.py" "$@"
    for ((n = 1; n <= $#; n += 2)); do
        case "${!n}" in --help | -h) exit 0 ;; esac
    done
fi
"${root}/tools/setup.sh"
. "${root}/tools/activate_python.sh"
export ESPNET_REUSE_ROOT=${root}
exec python3 -m espnet_reuse.bin.compare "$@"
