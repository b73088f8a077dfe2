#!/usr/bin/env bash
# Set bash to 'debug' mode, it will exit on :
# -e 'error', -u 'undefined variable', -o ... 'error in pipeline', -x 'print commands',
set -e
set -u
set -o pipefail

# conf/asr.conf has the options of this recipe; those that are given here win.
./asr.sh --config conf/asr.conf "$@"
