#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Run cells of the study: a model of a recipe with a seed. Compare those that are done.

set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
die() {
    echo "study.sh: error: $*" >&2
    exit 1
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

corpus=picovoice_coffee  # Recipe, a folder of egs2.
models=                  # Models; what the others are compared with is "baseline", or the first.
seeds="1 2 3 4 5"        # Seeds to train each model with.
inference_config=conf/decode_asr.yaml  # Config for decoding, of the recipe.
results=                 # Folder for the comparison, to publish it.
jobs=$(env -u OMP_NUM_THREADS nproc)  # Cells that are run side by side, each with one thread.

help_message=$(cat << EOH
Usage: local/study.sh [options] [options of run.sh, such as --data DIR]

Trains, decodes and scores cells of the study with ./run.sh, side by side, seed by seed;
then compares the models of which all seeds are done, and writes the comparison and the
figures of every run to egs2/<corpus>/asr1/exp/study/<decoding>/, in place of an earlier
one. What is done is not done again.

Options:
    --corpus  # Recipe, a folder of egs2 (default="${corpus}").
    --models  # Models; the others are compared with "baseline", or with the first where
              # that is not among them (default: baseline and its variants in conf/tuning
              # of the recipe, not those of other sizes).
    --seeds   # Seeds to train each with (default="${seeds}").
    --jobs    # Cells that are run side by side (default: the number of cores).
    --inference_config  # Config for decoding (default="${inference_config}").
    --results # Folder for the comparison, such as results/<corpus>/<decoding>, to publish
              # it (default="egs2/<corpus>/asr1/exp/study/<decoding>").
EOH
)

# What is written into results/, which are published: not where the corpus lies.
command_line=local/study.sh
run_opts=()
while [ $# -gt 0 ]; do
    option=${1//-/_}
    value=${2:+"${2@Q}"}
    [[ "${option}" =~ ^__(inference_config|results)$ || "${2:-}" != */* ]] || value=DIR
    [ "${option}" != __data ] || value=DIR
    command_line+=" $1 ${value}"
    case "${option}" in
        __help | _h)
            echo "${help_message}"
            exit 0
            ;;
        __corpus | __models | __seeds | __jobs | __inference_config | __results)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${option#__}" %s "$2"
            ;;
        __asr_args | __stage | __stop_stage | __nj | __inference_args)
            die "$1: the study sets it; make a config of its own for another model, in" \
                "conf/tuning of the recipe, or for another decoding"
            ;;
        __?*)
            [ $# -ge 2 ] || die "$1 needs a value (see local/study.sh --help)"
            run_opts+=("$1" "$2")
            ;;
        *) die "unexpected argument '$1' (see local/study.sh --help)" ;;
    esac
    shift 2
done
recipe="${root}/egs2/${corpus}/asr1"
[ -f "${recipe}/run.sh" ] || die "--corpus: no recipe '${corpus}' in egs2"
[[ "${jobs}" =~ ^[1-9][0-9]*$ ]] || die "--jobs: '${jobs}' is not a positive integer"
for seed in ${seeds}; do
    [[ "${seed}" =~ ^[0-9]+$ ]] || die "--seeds: '${seed}' is not a seed, a number"
done
config=train_asr_conformer
if [ -z "${models}" ]; then
    models=$(cd "${recipe}/conf/tuning" && echo "${config}"_*.yaml)
    models=" ${models//${config}_/}"
    models=$(sed -E "s/ d[0-9]+[^ ]*//g" <<< "${models//.yaml/}")
    models="baseline${models}"
fi
others=" ${models} "
[[ "${others}" != *" baseline "* ]] || models="baseline${others/ baseline / }"
read -r first _ <<< "${models}"

run() {
    "${root}/run.sh" --corpus "${corpus}" --inference_config "${inference_config}" \
        "${run_opts[@]}" "$@"
}
failed=$(mktemp)
trap 'rm -f "${failed}"' EXIT

# One model with one seed; a fine-tuned one after the first, which it starts from.
run_cell() {
    local model=$1 seed=$2 what="$1, seed $2" start=${SECONDS} logfile
    logfile="${recipe}/exp/log/study_${model}_${seed}.log"
    [[ "${model}" != *_warm ]] || model="${first} ${model}"
    log "${what}: begins"
    if run --models "${model}" --seeds "${seed}" --nj 1 --stage 3 --stop_stage 5 \
        > "${logfile}" 2>&1; then
        log "${what}: done in $((SECONDS - start)) s"
    else
        log "${what}: failed: $(tail -n 1 "${logfile}") (log: ${logfile#"${root}/"})"
        echo "$1/${seed}" >> "${failed}"
    fi
}

run --models "${models}" --stop_stage 2
for seed in ${seeds}; do
    for model in ${models}; do
        while [ "$(jobs -rp | wc -l)" -ge "${jobs}" ]; do wait -n; done
        run_cell "${model}" "${seed}" &
    done
done
wait

complete=""
for model in ${models}; do
    grep -q "^${model}/" "${failed}" || complete+="${complete:+ }${model}"
done
if [[ "${complete} " = "${first} "* ]]; then
    study_command="${command_line}  # ${jobs} side by side, one thread each" \
        run --models "${complete}" --seeds "${seeds}" --stage 6
    decoding=$(sed -n 's/^- decoding: .\(.*\).$/\1/p' "${recipe}/exp/RESULTS.md")
    results=${results:-${recipe}/exp/study/${decoding}}
    mkdir -p "${results}"
    cp "${recipe}"/exp/{RESULTS.md,comparison.json,comparison.png} "${results}/"
    log "Written: ${results#"${root}/"}/{RESULTS.md,comparison.json,comparison.png}"
fi
[ ! -s "${failed}" ] || die "not done: $(paste -sd ' ' "${failed}")"
