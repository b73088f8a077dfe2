#!/usr/bin/env bash
set -euo pipefail

# conf/asr.conf has the options of this recipe; those that are given here win.
./asr.sh --config conf/asr.conf "$@"
