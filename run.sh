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

command_line="./run.sh${*:+ ${*@Q}}"
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

[[ "${root}" != *[[:space:]]* ]] \
    || die "ESPnet's scripts do not run in a path with spaces: move '${root}'"
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
# As asr.sh names the folders of a config and the options that override it.
# Usage: tag_of <config> <options>
tag_of() { echo "$(basename "$1" .yaml)$(echo "$2" | sed -e "s/--/\_/g" -e "s/[ |=/]//g")"; }
exp_of() { echo "exp/asr_$(tag_of "$(config_of "$1")" "${asr_args}")"; }
for model in ${models}; do
    [ -f "$(config_of "${model}")" ] || die "--models: no model '${model}'; choose from:" \
        "baseline $(cd conf/tuning && for f in train_asr_conformer_*.yaml; do
            f=${f#train_asr_conformer_}; echo -n "${f%.yaml} "; done)" \
        "(or add egs2/${corpus}/asr1/$(config_of "${model}"))"
done

# ========================== Stage 0: set-up ==========================

# Every stage needs it; a second time it costs nothing.
"${root}/tools/setup.sh"
reserved_opts="dumpdir|expdir|asr_(exp|tag|config|stats_dir)|inference_tag|feats_type"
reserved_opts+="|skip_.*|download_model|hyp_cleaner|(local_)?score_opts"
for ((i = 0; i < ${#asr_opts[@]}; i += 2)); do
    option=${asr_opts[i]#--}
    if [[ "${option}" =~ ^(${reserved_opts})$ ]]; then
        die "--${option}: run.sh sets it, or does without; with the recipe's own run.sh" \
            "in egs2/${corpus}/asr1 you can choose it"
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
# Keep two runs from working on one thing: the data (descriptor 8; training and decoding
# share it) and each model (9). What a killed run has started may go on without it: all
# of it holds the locks.
lock() {
    local descriptor=$1 mode=$2 what=$3
    if ! flock --nonblock "${mode}" "${descriptor}"; then
        log "Another run is at work on ${what}, perhaps left over from one that was" \
            "killed: waiting for it to end"
        flock "${mode}" "${descriptor}"
    fi
}
exec 8>> exp/.lock

# Is this step done, with the same inputs?
# Usage: is_done <stamp> <inputs...>
is_done() {
    local stamp=$1
    shift
    [ -f "${stamp}" ] && [ "$(< "${stamp}")" = "$(echo "$*" | cksum)" ]
}
mark_done() {
    local stamp=$1
    shift
    echo "$*" | cksum > "${stamp}.partial.$$"
    mv "${stamp}.partial.$$" "${stamp}"
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
    check_log=$(mktemp exp/log/check_config.XXXXXX)
    python3 -m espnet_reuse.run "${root}/local/check_config.py" \
        --configs "${configs[@]}" --asr_args "${asr_args}" 2> "${check_log}" \
        || die "$(tail -n 1 "${check_log}")"
    rm "${check_log}"
    mark_done exp/log/.configs "${inputs_configs}"
fi

# ========================== Stages 1 and 2: data ==========================

# The options among asr_opts whose names match: a step depends on these only.
opts_matching() {
    local i
    for ((i = 0; i < ${#asr_opts[@]}; i += 2)); do
        if [[ "${asr_opts[i]}" =~ ^--($1)$ ]]; then
            echo "${asr_opts[*]:i:2}"
        fi
    done
}
corpus_opts="auxiliary_data_tags|num_ref|fs|lang|speed_perturb_factors|audio_format"
corpus_opts+="|multi_columns_.*|(min|max)_wav_duration|(train|valid)_set|nlsyms_txt"
corpus_opts+="|cleaner|g2p|token_type|n?bpe.*|oov|blank|sos_eos|sot_asr"
corpus_opts+="|hugging_face_model_name_or_path|use_(lang_|nlp_)?prompt"
data_opts="${corpus_opts}|test_sets|(local_data|post_process_local_data)_opts"
data_opts+="|use_lm|use_word_lm|lm_.*|use_ngram|ngram_.*"
train_opts="asr_.*|pretrained_model|ignore_init_mismatch|feats_normalize|num_splits_asr"

inputs_data="$(cat run.sh local/data*) $(opts_matching "${data_opts}")"
# the statistics are of the features of the first config; check_config.py has found the
# others' to be the same
inputs_tokens="${inputs_data} $(sed -n '/^frontend/,/^[^ f]/p' "${configs[0]}")"
[[ "${asr_args}" != *--frontend* ]] || inputs_tokens+=" ${asr_args}"

has_data() { [ -d dump/raw ] && is_done data/.done "${inputs_data}"; }
has_tokens() {
    compgen -G "exp/asr_stats*" > /dev/null && is_done data/.done_tokens "${inputs_tokens}"
}

lock 8 --shared "the data"
if wants 1; then
    has_data || lock 8 --exclusive "the data"
    if has_data; then
        log "Stage 1: Data preparation: done already"
    else
        log "Stage 1: Data preparation: ${corpus}"
        rm -f data/.done data/.done_tokens
        run_logged "Stage 1: data/" "" exp/log/data.log \
            ./run.sh "${run_opts[@]}" --stage 1 --stop_stage 1
        python3 "${root}/local/check_data.py" data/*/
        run_logged "Stage 1: dump/raw" "" exp/log/dump.log \
            ./run.sh "${run_opts[@]}" --stage 2 --stop_stage 4
        mark_done data/.done "${inputs_data}"
    fi
fi

if wants 2; then
    has_data || die "--stage 2: the data are not prepared; start from --stage 1"
    has_tokens || lock 8 --exclusive "the data"
    if has_tokens; then
        log "Stage 2: Tokens and statistics: done already"
    else
        log "Stage 2: Tokens and statistics, shared by all models"
        rm -f data/.done_tokens
        python3 "${root}/local/check_data.py" dump/raw/*/ dump/raw/org/*/
        run_logged "Stage 2: tokens and statistics" "" exp/log/tokens.log \
            ./run.sh "${run_opts[@]}" --asr_config "${configs[0]}" \
            --asr_args "${asr_args}" --stage 5 --stop_stage 10
        mark_done data/.done_tokens "${inputs_tokens}"
    fi
fi
lock 8 --shared "the data"

# ========================== Stages 3 to 6: models ==========================

inference_tag=$(tag_of "${inference_config}" "${inference_args}")
compared=()
declare -A scored
for model in ${models}; do
    config=$(config_of "${model}")
    asr_exp=$(exp_of "${model}")
    compared+=("${model}=${asr_exp}")
    model_opts=("${run_opts[@]}" --asr_config "${config}" --asr_args "${asr_args}"
        --asr_tag "${asr_exp#exp/asr_}" --inference_config "${inference_config}"
        --inference_args "${inference_args}" --inference_tag "${inference_tag}")
    decode_dir="${asr_exp}/${inference_tag}"
    settings="${asr_args} $(opts_matching "${corpus_opts}|${train_opts}")"
    settings+=" $(grep -v "^max_epoch:" "${config}")"
    inputs_train="${settings} $(< "${config}")"
    inputs_decode="${inputs_train} ${asr_opts[*]} ${inference_args}"
    inputs_decode+=" $(< "${inference_config}")"
    scored[${model}]=${inputs_decode}
    wants 3 || wants 4 || wants 5 || continue
    mkdir -p "${asr_exp}"
    exec 9>> "${asr_exp}/.lock"
    lock 9 --exclusive "${asr_exp}"

    if wants 3; then
        has_tokens || die "--stage 3: there are no tokens yet; start from --stage 1"
        if is_done "${asr_exp}/.done_train" "${inputs_train}"; then
            log "Stage 3: Training ${model}: done already"
        else
            # ESPnet would resume, and pass old weights off as trained with new settings
            if [ -f "${asr_exp}/checkpoint.pth" ] \
                && ! is_done "${asr_exp}/.settings" "${settings}"; then
                die "${asr_exp} was trained with other settings than ${config} has now:" \
                    "remove it, or give the new config a name of its own"
            fi
            log "Stage 3: Training ${model}: ${config}"
            rm -f "${asr_exp}"/.done_train "${asr_exp}"/*/.done_*
            mark_done "${asr_exp}/.settings" "${settings}"
            python3 "${root}/local/repair_checkpoint.py" "${asr_exp}"
            run_logged "Stage 3: training ${model}" "${asr_exp}/train.log" \
                "${asr_exp}/run_train.log" \
                ./run.sh "${model_opts[@]}" --stage 11 --stop_stage 11
            mark_done "${asr_exp}/.done_train" "${inputs_train}"
        fi
    fi

    if wants 4; then
        is_done "${asr_exp}/.done_train" "${inputs_train}" \
            || die "--stage 4: ${model} is not trained yet; start from --stage 3"
        if is_done "${decode_dir}/.done_decode" "${inputs_decode}"; then
            log "Stage 4: Decoding ${model}: done already"
        else
            log "Stage 4: Decoding ${model}: ${inference_config#"${root}/"}"
            rm -f "${decode_dir}"/.done_*
            run_logged "Stage 4: decoding ${model}" "" "${asr_exp}/run_decode.log" \
                ./run.sh "${model_opts[@]}" --stage 12 --stop_stage 12
            mark_done "${decode_dir}/.done_decode" "${inputs_decode}"
        fi
    fi

    if wants 5; then
        is_done "${decode_dir}/.done_decode" "${inputs_decode}" \
            || die "--stage 5: ${model} is not decoded yet; start from --stage 3"
        if is_done "${decode_dir}/.done_score" "${inputs_decode}"; then
            log "Stage 5: Scoring ${model}: done already"
        else
            log "Stage 5: Scoring ${model}: ${decode_dir}"
            rm -f exp/.done_compare
            run_logged "Stage 5: scoring ${model}" "" "${asr_exp}/run_score.log" \
                python3 "${root}/local/score.py" --expdir "${decode_dir}" --dumpdir dump/raw
            mark_done "${decode_dir}/.done_score" "${inputs_decode}"
        fi
    fi
done

if wants 6; then
    exec 9>> exp/.lock_compare
    lock 9 --exclusive "the comparison"
    for model in ${models}; do
        is_done "$(exp_of "${model}")/${inference_tag}/.done_score" "${scored[${model}]}" \
            || die "--stage 6: ${model} is not scored yet; start from --stage 3"
    done
    if [ -f exp/RESULTS.md ] && is_done exp/.done_compare "${compared[@]}" "${scored[@]}"; then
        log "Stage 6: Comparison: done already"
    else
        log "Stage 6: Comparing ${models}"
        run_logged "Stage 6: comparison" "" exp/log/compare.log \
            python3 -m espnet_reuse.run "${root}/local/compare.py" \
            --models "${compared[@]}" --inference_tag "${inference_tag}" \
            --command "${command_line}" --dumpdir dump/raw --output_dir exp
        mark_done exp/.done_compare "${compared[@]}" "${scored[@]}"
    fi
    sed -n '/^|/,$p' exp/RESULTS.md
    log "Written: egs2/${corpus}/asr1/exp/{RESULTS.md,comparison.json,comparison.png}"
fi
