#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Answer the open questions that need a GPU, within some minutes.

set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (gpu_study.sh) $*"
}

die() {
    echo "tools/gpu_study.sh: error: $*" >&2
    exit 1
}

help_message=$(cat << HELP
Usage: tools/gpu_study.sh [options]

Runs the tests that need a GPU, and measures encoders of librispeech_100's size in
bfloat16: eager and captured in CUDA graphs, in training, and compiled in the time that
is left. Each part has a share of the time, and writes when it ends: its output into
PART.log, and its tables into a folder PART. What became of each part is in parts.txt.

Options:
    --output   # Folder to write, seen from the repository (default:
               # results/benchmark_gpu).
    --minutes  # It stops after so many minutes (default: 8).
    --device   # cuda or cpu (default: cuda).
    --tiny     # true: tests and encoders of milliseconds, to try the script
               # (default: false).

Exit status: 1 if a part failed or had not enough time.

Accuracy at matched speed needs a corpus and hours of training, and is not run here:
    ./run.sh --corpus speechocean762 --data DIR --ngpu 1 --seeds "1 2 3" --jobs 5 \\
        --models "baseline reuse4 conv2d8 conv2d8_reuse4 layers8"
HELP
)

cd "$(dirname "${BASH_SOURCE[0]}")/.."
output=results/benchmark_gpu
minutes=8
device=cuda
tiny=false
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h) echo "${help_message}"; exit ;;
        --output | --minutes | --device | --tiny)
            [ $# -gt 1 ] || die "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift 2 ;;
        *) die "there is no option '$1': see tools/gpu_study.sh --help" ;;
    esac
done
[[ "${minutes}" =~ ^[1-9][0-9]{0,3}$ ]] || die "--minutes ${minutes}: use a number from 1 on"
[[ "${device}" =~ ^(cuda|cpu)$ ]] || die "--device ${device}: use cuda or cpu"
[[ "${tiny}" =~ ^(true|false)$ ]] || die "--tiny ${tiny}: use true or false"

if [ -f tools/activate_python.sh ]; then
    # shellcheck source=/dev/null
    . tools/activate_python.sh
fi
export PYTHONPATH=${PWD}:${PYTHONPATH:-}
why=$(python3 -c '
import sys, espnet2, pytest, torch
sys.exit(sys.argv[1] == "cuda" and not torch.cuda.is_available() and "PyTorch finds no GPU")
' "${device}" 2>&1) || die "${why##*$'\n'}; tools/setup.sh installs what is missing, and" \
    "--device cpu --tiny true tries the script without a GPU"
mkdir -p "${output}" || die "--output ${output}: choose a folder that can be written"

SECONDS=0
deadline=$((minutes * 60))
failed=0
child=
trap 'kill "${child}" 2> /dev/null; exit 130' INT TERM
: > "${output}/parts.txt"

# Run a command as a part, for so many of 480 seconds, or less at the end.
part() {
    local name=$1 limit=$(($2 * deadline / 480)) began=${SECONDS} status=0 became="done"
    shift 2
    [ "${limit}" -le $((deadline - SECONDS)) ] || limit=$((deadline - SECONDS))
    if [ "${limit}" -gt 0 ]; then
        log "${name}: at most ${limit} s"
        timeout -k 5 "${limit}" "$@" > "${output}/${name}.log" 2>&1 &
        child=$!
        wait "${child}" || status=$?
        case "${status}" in
            0) ;;
            124 | 137) became="stopped: out of time" ;;
            *) became="failed: exit status ${status}, see ${name}.log" ;;
        esac
    else
        became="not started: out of time"
    fi
    [ "${became}" = "done" ] || failed=1
    log "${name}: ${became}"
    echo "${name}: ${became}, after $((SECONDS - began)) s" >> "${output}/parts.txt"
}

encoders=tests/espnet2/asr/encoder/test_reuse_encoder_cuda.py
tests=("${encoders}" tests/espnet2/asr/layers tests/test_captured.py)
size=4 long=35 short=5 middle=15 many=64 fewer=24 batch=16 common=(--min_time 0.3)
if "${tiny}"; then
    tests=("${encoders}")
    size=2 long=2 short=1 middle=1 many=2 fewer=2 batch=2
    common=(--min_time 0.01 --config tests/benchmark/tiny.yaml)
fi
groups="reuse, groups of ${size}"
coarser="frames of 80 ms"
peers=("ESPnet use_sdpa" "absolute positions, SDPA" "${coarser}")
peers+=("${coarser}, groups of ${size}" "${groups}, ESPnet's operations" "${groups}" limit)
forms=(eager)
[ "${device}" = cpu ] || forms+=(captured)

benchmark() {  # a part, its seconds, and the options of the benchmark
    part "$1" "$2" python3 -m espnet_reuse.bin.benchmark --device "${device}" \
        --dtype bfloat16 "${common[@]}" --output "${output}/$1" "${@:3}"
}

present=()
for test in "${tests[@]}"; do
    if [ -e "${test}" ]; then
        present+=("${test}")
    else
        log "tests: there is no ${test}, and it is left out"
    fi
done
part tests 90 python3 -m pytest -q -m "not slow" "${present[@]}"
forward=(--group_size 1 "${size}" --forms "${forms[@]}" --only "${peers[@]}" "ours, no reuse")
forward+=(--seconds "${short}" "${middle}" "${long}")
benchmark forward_batch16 100 --batch "${batch}" "${forward[@]}"
benchmark forward_batch1 80 --batch 1 "${forward[@]}"
training=(--mode train --group_size "${size}" --forms eager --only "${peers[@]}")
benchmark train_15s 60 --batch "${many}" --seconds "${middle}" "${training[@]}"
benchmark train_35s 60 --batch "${fewer}" --seconds "${long}" "${training[@]}"
# it takes a minute or more to compile an encoder: only these, and in the time that is left
compiled=(--group_size "${size}" --forms compiled --only "${groups}" --seconds "${middle}")
benchmark compiled 480 --batch "${batch}" "${compiled[@]}"
benchmark compiled_train 480 --batch "${many}" --mode train "${compiled[@]}"
log "the results are in ${output}"
exit "${failed}"
