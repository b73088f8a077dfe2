#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Lint and test; sets up what is missing.

set -euo pipefail

help_message=$(cat << EOH
Usage: ./run_tests.sh [--slow] [options for pytest]

Checks format and style (ruff, shellcheck) and runs the tests (pytest).

Options:
    --slow  # Also run the tests that train and decode through the recipes
            # (40 minutes in all on 2 cores; default: left out).
EOH
)

cd "$(dirname "${BASH_SOURCE[0]}")"
markers="not slow"
case "${1:-}" in
    --help | -h) echo "${help_message}"; exit ;;
    --slow) markers=; shift ;;
esac

tools/setup.sh
# shellcheck source=/dev/null
. tools/activate_python.sh
for tool in ruff shellcheck pytest; do
    command -v "${tool}" > /dev/null && continue
    echo "run_tests.sh: error: this environment has no ${tool}: pip install -e '.[test]'" >&2
    exit 1
done

ruff check .
ruff format --check .
mapfile -t scripts < <(git ls-files --cached --others --exclude-standard \
    '*.sh' '.ci/run' | while read -r f; do [ -f "${f}" ] && [ ! -L "${f}" ] && echo "${f}"; done)
shellcheck "${scripts[@]}"
# one worker for each core; the tests of a file, and some files, share what they train
export OMP_NUM_THREADS=1
python3 -m pytest -n logical --maxprocesses 8 --dist loadfile -m "${markers}" "$@"
