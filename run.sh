#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Train, decode and score a baseline and models that reuse attention maps, and compare.

set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
die() {
    echo "run.sh: error: $*" >&2
    exit 1
}

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
last_stage=6

corpus=mini_an4                     # Recipe to run: a folder of egs2.
models="baseline reuse2 reuse3"     # Models to compare, the first is the baseline.
stage=0                             # Processes starts from the specified stage.
stop_stage=${last_stage}            # Processes is stopped at the specified stage.
ngpu=                               # The number of gpus ("0" uses cpu).
nj=$(nproc)                         # The number of parallel jobs.
asr_args=                           # Training options that override the configs.
inference_config=                   # Config for decoding.
inference_args=                     # Decoding options that override the config.

help_message=$(cat << EOH
Usage: ./run.sh [options]

Trains, decodes and scores a baseline and models that reuse attention maps, with
ESPnet's asr.sh, and writes egs2/<corpus>/asr1/exp/RESULTS.md. What is done already
is not done again; an interrupted run is continued.

Stages:
    0: Set-up (tools/setup.sh) and a check of the configs
    1: Data preparation
    2: Tokens and statistics, shared by all models
    3: Training
    4: Decoding
    5: Scoring
    6: Comparison

Options:
    --corpus            # Recipe to run, a folder of egs2 (default="${corpus}").
    --models            # Models to compare, the first is the baseline; "baseline" is
                        # conf/train_asr_conformer.yaml of the recipe, any other name
                        # conf/tuning/train_asr_conformer_<name>.yaml
                        # (default="${models}").
    --stage             # Processes starts from the specified stage (default="${stage}").
    --stop_stage        # Processes is stopped at the specified stage
                        # (default="${stop_stage}").
    --ngpu              # The number of gpus, "0" uses cpu (default: the recipe's).
    --nj                # The number of parallel jobs, in decoding too (default="${nj}",
                        # the number of cores).
    --asr_args          # Training options that override the configs
                        # (default="${asr_args}"), e.g. --asr_args "--max_epoch 10".
    --inference_config  # Config for decoding (default: the recipe's
                        # conf/decode_asr.yaml).
    --inference_args    # Decoding options that override it (default="${inference_args}").

Any other option goes to ESPnet's asr.sh, e.g. --nbpe 30.
EOH
)

asr_opts=()
while [ $# -gt 0 ]; do
    option=${1//-/_}
    case "${option}" in
        __help | _h)
            echo "${help_message}"
            exit 0
            ;;
        __corpus | __models | __stage | __stop_stage | __ngpu | __nj | __asr_args \
            | __inference_config | __inference_args)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${option#__}" %s "$2"
            ;;
        __?*)
            [ $# -ge 2 ] || die "$1 needs a value (see ./run.sh --help)"
            asr_opts+=("--${option#__}" "$2")
            ;;
        *) die "unexpected argument '$1' (see ./run.sh --help)" ;;
    esac
    shift 2
done

recipe="${root}/egs2/${corpus}/asr1"
if [ -z "${corpus}" ] || [ ! -f "${recipe}/run.sh" ]; then
    die "--corpus: no recipe '${corpus}' in egs2; choose from:" \
        "$(cd "${root}/egs2" && for f in */asr1/run.sh; do echo -n "${f%%/*} "; done)"
fi
for name in stage stop_stage; do
    [[ "${!name}" =~ ^[0-9]+$ ]] && [ "${!name}" -le "${last_stage}" ] \
        || die "--${name}: '${!name}' is not a stage; choose from 0 to ${last_stage}"
done
[ "${stage}" -le "${stop_stage}" ] \
    || die "--stage: ${stage} comes after --stop_stage ${stop_stage}"
[[ "${nj}" =~ ^[1-9][0-9]*$ ]] || die "--nj: '${nj}' is not a positive integer"
[[ "${ngpu:-0}" =~ ^[0-9]+$ ]] || die "--ngpu: '${ngpu}' is not a number of gpus"
inference_config=${inference_config:-${recipe}/conf/decode_asr.yaml}
[ -f "${inference_config}" ] \
    || die "--inference_config: there is no file '${inference_config}'"
inference_config=$(realpath "${inference_config}")
[ -n "${models// /}" ] || die "--models: name at least one model, e.g. \"baseline reuse3\""

cd "${recipe}"
config_of() {  # The config of a model, relative to the recipe.
    if [ "$1" = baseline ]; then
        echo conf/train_asr_conformer.yaml
    else
        echo "conf/tuning/train_asr_conformer_$1.yaml"
    fi
}
# As asr.sh names the experiments of a config with --asr_args.
exp_of() {
    local suffix
    suffix=$(echo "${asr_args}" | sed -e "s/--/\_/g" -e "s/[ |=/]//g")
    echo "exp/asr_$(basename "$(config_of "$1")" .yaml)${suffix}"
}
for model in ${models}; do
    [ -f "$(config_of "${model}")" ] || die "--models: no model '${model}'; choose from:" \
        "baseline $(cd conf/tuning && for f in train_asr_conformer_*.yaml; do
            f=${f#train_asr_conformer_}; echo -n "${f%.yaml} "; done)" \
        "(or add egs2/${corpus}/asr1/$(config_of "${model}"))"
done

# ========================== Stage 0: set-up ==========================

# Every stage needs it; a second time it costs nothing.
"${root}/tools/setup.sh"
for ((i = 0; i < ${#asr_opts[@]}; i += 2)); do
    option=${asr_opts[i]#--}
    if [[ "${option}" =~ ^(dumpdir|expdir|asr_(exp|tag|config|stats_dir)|inference_tag)$ ]]
    then
        die "--${option}: run.sh sets it for each model; use the recipe's own run.sh" \
            "in egs2/${corpus}/asr1 to choose it"
    elif ! grep -q "^${option}=" asr.sh; then
        die "unknown option --${option}: neither run.sh nor ESPnet's asr.sh has it" \
            "(see ./run.sh --help)"
    fi
done
set +u  # ESPnet's path.sh may read unset variables
# shellcheck source=/dev/null
. ./path.sh
set -u

mkdir -p exp/log
# Keep two runs from working in one folder; several may train different models. What a
# killed run has started may go on without it: all of it holds the lock.
lock() {
    exec 9>> "$1/.lock"
    if ! flock --nonblock 9; then
        log "Another run is at work in $1, perhaps left over from one that was killed:" \
            "waiting for it to end"
        flock 9
    fi
}

# Is this step done, with the same inputs? A step that is about to run is not.
# Usage: is_done <stamp> <inputs...>
is_done() {
    local stamp=$1 key
    shift
    key=$(echo "$*" | cksum)
    [ -f "${stamp}" ] && [ "$(< "${stamp}")" = "${key}" ] && return
    rm -f "${stamp}"
    return 1
}
mark_done() {
    local stamp=$1
    shift
    echo "$*" | cksum > "${stamp}.partial"
    mv "${stamp}.partial" "${stamp}"
}

# Run a command with its output in a log file, and show how it gets on.
# Usage: run_logged <what> <train log or ""> <log file> <command...>
run_logged() {
    local what=$1 train_log=$2 logfile=$3 epoch last_epoch="" last_shown=-10 start
    start=$(date +%s)
    shift 3
    # a session of its own, so that all of it can be stopped with this script
    setsid "$@" > "${logfile}" 2>&1 &
    child=$!
    while kill -0 "${child}" 2> /dev/null; do
        sleep 0.5
        # ESPnet moves the log of an earlier training away first
        [ -n "${train_log}" ] && [ -f "${train_log}" ] \
            && [ "$(stat -c %Y "${train_log}")" -ge "${start}" ] || continue
        epoch=$(tail -c 20000 "${train_log}" | grep -o '[0-9]*/[0-9]*epoch started.*' \
            | tail -n 1 | sed -e 's/epoch started//' \
                -e 's/. Estimated time to finish: \(.*\)/, \1 to go/' || true)
        if [ "${epoch}" != "${last_epoch}" ] && [ $((SECONDS - last_shown)) -ge 5 ]; then
            log "${what}: epoch ${epoch}"
            last_epoch=${epoch} last_shown=${SECONDS}
        fi
    done
    if ! wait "${child}"; then
        child=
        # the line that says why, rather than where
        local why
        why=$(grep -hE "error: |^[A-Za-z_.]*(Error|Exception): |Error: " "${logfile}" \
            | tail -n 1 || true)
        die "${what} failed: ${why:-$(tail -n 1 "${logfile}")}" \
            "(log: egs2/${corpus}/asr1/${logfile})"
    fi
    child=
    log "${what}: done in $(($(date +%s) - start)) s"
}
child=
stop_child() {
    [ -n "${child}" ] && kill -TERM -- "-${child}" 2> /dev/null
    exit 130
}
trap stop_child INT TERM HUP

wants() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }

run_opts=(--nj "${nj}" --inference_nj "${nj}" ${ngpu:+--ngpu "${ngpu}"} "${asr_opts[@]}")

mapfile -t configs < <(for model in ${models}; do config_of "${model}"; done)
inputs_configs="${asr_args} $(cat "${configs[@]}")"
if ! is_done exp/log/.configs "${inputs_configs}"; then
    log "Stage 0: Checking ${configs[*]}"
    python3 -m espnet_reuse.run "${root}/local/check_config.py" \
        --configs "${configs[@]}" --asr_args "${asr_args}" 2> exp/log/check_config.log \
        || die "$(tail -n 1 exp/log/check_config.log)"
    mark_done exp/log/.configs "${inputs_configs}"
fi

# ========================== Stages 1 and 2: data ==========================

# The options that a data directory depends on: others do not make it anew.
data_opts="(local_data|post_process_local_data)_opts|auxiliary_data_tags|num_ref|fs|lang"
data_opts+="|speed_perturb_factors|feats_type|audio_format|multi_columns_.*|cleaner|g2p"
data_opts+="|(min|max)_wav_duration|(train|valid|test)_sets?|nlsyms_txt|token_type"
data_opts+="|n?bpe.*|oov|blank|sos_eos|hugging_face_model_name_or_path|use_lm|lm_.*_text"
inputs_data=$(cat run.sh local/*)
for ((i = 0; i < ${#asr_opts[@]}; i += 2)); do
    if [[ "${asr_opts[i]}" =~ ^--(${data_opts})$ ]]; then
        inputs_data+=" ${asr_opts[*]:i:2}"
    fi
done

if wants 1 || wants 2; then
    lock exp
fi
if wants 1; then
    if [ -d data ] && is_done dump/raw/.done "${inputs_data}"; then
        log "Stage 1: Data preparation: done already"
    else
        log "Stage 1: Data preparation: ${corpus}"
        run_logged "Stage 1: data/" "" exp/log/data.log \
            ./run.sh "${run_opts[@]}" --stage 1 --stop_stage 1
        python3 "${root}/local/check_data.py" data/*/
        run_logged "Stage 1: dump/raw" "" exp/log/dump.log \
            ./run.sh "${run_opts[@]}" --stage 2 --stop_stage 4
        mark_done dump/raw/.done "${inputs_data}"
    fi
fi

if wants 2; then
    if [ -d data ] && is_done exp/.done_tokens "${inputs_data}"; then
        log "Stage 2: Tokens and statistics: done already"
    else
        log "Stage 2: Tokens and statistics, shared by all models"
        python3 "${root}/local/check_data.py" dump/raw/*/ dump/raw/org/*/
        run_logged "Stage 2: tokens and statistics" "" exp/log/tokens.log \
            ./run.sh "${run_opts[@]}" --stage 5 --stop_stage 10
        mark_done exp/.done_tokens "${inputs_data}"
    fi
fi

# ========================== Stages 3 to 6: models ==========================

inference_tag="$(basename "${inference_config}" .yaml)"
inference_tag+="$(echo "${inference_args}" | sed -e "s/--/\_/g" -e "s/[ |=/]//g")"
compared=()
inputs_all=
for model in ${models}; do
    config=$(config_of "${model}")
    asr_exp=$(exp_of "${model}")
    compared+=("${model}=${asr_exp}")
    model_opts=("${run_opts[@]}" --asr_config "${config}" --asr_args "${asr_args}"
        --asr_tag "${asr_exp#exp/asr_}" --inference_config "${inference_config}"
        --inference_args "${inference_args}" --inference_tag "${inference_tag}")
    decode_dir="${asr_exp}/${inference_tag}"
    mkdir -p "${asr_exp}"
    lock "${asr_exp}"

    inputs_train="${inputs_data} ${asr_opts[*]} ${asr_args} $(< "${config}")"
    if wants 3; then
        if is_done "${asr_exp}/.done_train" "${inputs_train}"; then
            log "Stage 3: Training ${model}: done already"
        else
            log "Stage 3: Training ${model}: ${config}"
            rm -f "${asr_exp}"/*/.done_*
            python3 "${root}/local/repair_checkpoint.py" "${asr_exp}"
            run_logged "Stage 3: training ${model}" "${asr_exp}/train.log" \
                "exp/log/train_${model}.log" \
                ./run.sh "${model_opts[@]}" --stage 11 --stop_stage 11
            mark_done "${asr_exp}/.done_train" "${inputs_train}"
        fi
    fi

    inputs_decode="${inputs_train} ${inference_args} $(< "${inference_config}")"
    if wants 4; then
        [ -f "${asr_exp}/.done_train" ] \
            || die "--stage 4: ${model} is not trained yet; start from --stage 3"
        if is_done "${decode_dir}/.done_decode" "${inputs_decode}"; then
            log "Stage 4: Decoding ${model}: done already"
        else
            log "Stage 4: Decoding ${model}: ${inference_config#"${root}/"}"
            rm -f "${decode_dir}/.done_score"
            run_logged "Stage 4: decoding ${model}" "" "exp/log/decode_${model}.log" \
                ./run.sh "${model_opts[@]}" --stage 12 --stop_stage 12
            mark_done "${decode_dir}/.done_decode" "${inputs_decode}"
        fi
    fi

    if wants 5; then
        [ -f "${decode_dir}/.done_decode" ] \
            || die "--stage 5: ${model} is not decoded yet; start from --stage 4"
        if is_done "${decode_dir}/.done_score" "${inputs_decode}"; then
            log "Stage 5: Scoring ${model}: done already"
        else
            log "Stage 5: Scoring ${model}: ${decode_dir}"
            rm -f exp/.done_compare
            run_logged "Stage 5: scoring ${model}" "" "exp/log/score_${model}.log" \
                python3 "${root}/local/score.py" --expdir "${decode_dir}" --dumpdir dump/raw
            mark_done "${decode_dir}/.done_score" "${inputs_decode}"
        fi
    fi
    inputs_all+="${model} ${inputs_decode}"
done

if wants 6; then
    lock exp
    for model in "${compared[@]}"; do
        [ -f "${model#*=}/${inference_tag}/.done_score" ] \
            || die "--stage 6: ${model%%=*} is not scored yet; start from --stage 3"
    done
    if [ -f exp/RESULTS.md ] && is_done exp/.done_compare "${inputs_all}"; then
        log "Stage 6: Comparison: done already"
    else
        log "Stage 6: Comparing ${models}"
        run_logged "Stage 6: comparison" "" exp/log/compare.log \
            python3 -m espnet_reuse.run "${root}/local/compare.py" \
            --models "${compared[@]}" --inference_tag "${inference_tag}" \
            --dumpdir dump/raw --output_dir exp
        mark_done exp/.done_compare "${inputs_all}"
    fi
    sed -n '/^|/,$p' exp/RESULTS.md
    log "Written: egs2/${corpus}/asr1/exp/{RESULTS.md,comparison.json,comparison.png}"
fi
