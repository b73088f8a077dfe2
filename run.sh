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
last_stage=7

corpus=mini_an4                     # Recipe to run: a folder of egs2.
models="baseline reuse2 reuse3"     # Models to compare, the first is the baseline.
stage=0                             # Processes starts from the specified stage.
stop_stage=                         # Processes is stopped at the specified stage.
seeds=                              # Seeds to train each model with.
resume=true                         # Whether to continue trainings that were stopped.
ngpu=                               # The number of gpus ("0" uses cpu).
nj=$(env -u OMP_NUM_THREADS nproc)   # The number of parallel jobs.
asr_args=                           # Training options that override the configs.
inference_config=                   # Config for decoding.
inference_args=                     # Decoding options that override the config.
analysis_set=                       # Set to analyse the attention maps on.
analysis_args=                      # Options of the analysis.

help_message=$(cat << EOH
Usage: ./run.sh [options]

Trains, decodes and scores a baseline and models that reuse attention maps, with
ESPnet's asr.sh, and writes egs2/<corpus>/asr1/exp/RESULTS.md. What is done already
is not done again; an interrupted run is continued.

Stages:
    0: Set-up (tools/setup.sh) and a check of the configs
    1: Data preparation
    2: Tokens, statistics and (--use_lm true) the LM, shared by all models
    3: Training
    4: Decoding
    5: Scoring
    6: Comparison
    7: Analysis of the attention maps, if it is asked for

Options:
    --corpus            # Recipe to run, a folder of egs2 (default="${corpus}").
    --models            # Models to compare, the first is the baseline; "baseline" is
                        # conf/train_asr_conformer.yaml of the recipe, any other name
                        # conf/tuning/train_asr_conformer_<name>.yaml; a <name> that ends
                        # in _warm is fine-tuned from the first model
                        # (default="${models}").
    --stage             # Processes starts from the specified stage (default="${stage}").
    --stop_stage        # Processes is stopped at the specified stage
                        # (default="6", or --stage 7).
    --seeds             # Seeds to train each model with, e.g. "1 2 3"; the results are
                        # means over them (default: the config's seed).
    --resume            # Whether to continue trainings that were stopped, to the same
                        # result (default="${resume}").
    --ngpu              # The number of gpus, "0" uses cpu (default: the recipe's, or 0
                        # where there is none).
    --nj                # The number of parallel jobs, in decoding too (default="${nj}",
                        # the number of cores).
    --asr_args          # Training options that override the configs
                        # (default="${asr_args}"), e.g. --asr_args "--max_epoch 10".
    --inference_config  # Config for decoding, of the recipe, or else relative to the
                        # current folder (default="conf/decode_asr.yaml").
    --inference_args    # Decoding options that override it (default="${inference_args}").
    --analysis_set      # Set to analyse the attention maps on, in dump/raw (default: the
                        # last test set).
    --analysis_args     # Options of the analysis (default="${analysis_args}"), e.g.
                        # --analysis_args "--num_utts 50 --alignments /path/to/TextGrids"
                        # (all: python -m espnet_reuse.bin.analyze --help).

Any other option goes to the recipe's local/data.sh, if it has it (LibriSpeech:
--librispeech PATH, --parts "train-clean-100 ...", --allow_partial true), and to ESPnet's
asr.sh, e.g. --nbpe 30.
EOH
)

# What the user typed, here or to local/study.sh.
command_line=${study_command:-./run.sh${*:+ ${*@Q}}}
more_opts=()
while [ $# -gt 0 ]; do
    option=${1//-/_}
    case "${option}" in
        __help | _h)
            echo "${help_message}"
            exit 0
            ;;
        __corpus | __models | __stage | __stop_stage | __seeds | __resume | __ngpu | __nj \
            | __asr_args | __inference_config | __inference_args | __analysis_set \
            | __analysis_args)
            [ $# -ge 2 ] || die "$1 needs a value"
            printf -v "${option#__}" %s "$2"
            ;;
        __?*)
            [ $# -ge 2 ] || die "$1 needs a value (see ./run.sh --help)"
            more_opts+=("${option#__}" "$2")
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
if [ -z "${stop_stage}" ]; then
    [ "${stage}" = 7 ] && stop_stage=7 || stop_stage=6
fi
for name in stage stop_stage; do
    [[ "${!name}" =~ ^[0-9]+$ ]] && [ "${!name}" -le "${last_stage}" ] \
        || die "--${name}: '${!name}' is not a stage; choose from 0 to ${last_stage}"
done
[ "${stage}" -le "${stop_stage}" ] \
    || die "--stage: ${stage} comes after --stop_stage ${stop_stage}"
[[ "${nj}" =~ ^[1-9][0-9]*$ ]] || die "--nj: '${nj}' is not a positive integer"
[[ "${ngpu:-0}" =~ ^[0-9]+$ ]] || die "--ngpu: '${ngpu}' is not a number of gpus"
for seed in ${seeds}; do
    [[ "${seed}" =~ ^[0-9]+$ ]] || die "--seeds: '${seed}' is not a seed, a number"
done
[[ "${resume}" =~ ^(true|false)$ ]] || die "--resume: '${resume}' is not true or false"
inference_config=${inference_config:-conf/decode_asr.yaml}
[ ! -f "${recipe}/${inference_config}" ] || inference_config="${recipe}/${inference_config}"
[ -f "${inference_config}" ] \
    || die "--inference_config: there is no file '${inference_config}'"
inference_config=$(realpath "${inference_config}")
[ -n "${models// /}" ] || die "--models: name at least one model, e.g. \"baseline reuse3\""

start_dir=${PWD}
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
encoder_option() { sed -n "s/^ *$2: *\([^#]*\).*/\1/p" "$1"; }  # Of a config.
args_of() { echo "${asr_args}${1:+${asr_args:+ }--seed $1}"; }  # Of a seed, if there is one.
# Usage: exp_of <model> <seed>
exp_of() { echo "exp/asr_$(tag_of "$(config_of "$1")" "$(args_of "$2")")"; }
# What the recipe's run.sh sets, as a variable or as an option of asr.sh.
recipe_value() {
    sed -n -e "s/^$1=\"\{0,1\}\([^\"]*\)\"\{0,1\}$/\1/p" \
        -e "s/^ *--$1 \([^ \"]*\) .*/\1/p" run.sh | head -n 1
}
read -r first _ <<< "${models}"
[[ "${first}" != *_warm ]] \
    || die "--models: '${first}' is fine-tuned from the first model: put a baseline before it"
for model in ${models}; do
    [ -f "$(config_of "${model}")" ] || die "--models: no model '${model}'; choose from:" \
        "baseline $(cd conf/tuning && for f in train_asr_conformer_*.yaml; do
            f=${f#train_asr_conformer_}; echo -n "${f%.yaml} "; done)" \
        "(or add egs2/${corpus}/asr1/$(config_of "${model}"))"
done

for model in ${models}; do
    for seed in ${seeds:-""}; do
        name=$(exp_of "${model}" "${seed}")
        [ ${#name} -le 255 ] || die "--asr_args: too many for the name of a folder: put them" \
            "into a config of their own, conf/tuning/train_asr_conformer_<name>.yaml"
    done
done

# ========================== Stage 0: set-up ==========================

# Every stage needs it; a second time it costs nothing.
"${root}/tools/setup.sh"
reserved_opts="dumpdir|expdir|asr_(exp|tag|config|stats_dir)|inference_tag|feats_type"
reserved_opts+="|skip_.*|use_lightning|download_model|hyp_cleaner|(local_)?score_opts"
# Of the Kaldi-style data directories in a folder: they may be edited between two runs.
corpus_checksum() {
    { cat "$1"/*/{wav.scp,text,utt2spk} || true; } 2> /dev/null | cksum
}
asr_opts=() data_opts=() parts="" inputs_corpus=""
for ((i = 0; i < ${#more_opts[@]}; i += 2)); do
    option=${more_opts[i]} value=${more_opts[i + 1]}
    for_data=$(grep -c "^${option}=" local/data.sh || true)
    for_asr=$(grep -c "^${option}=" asr.sh || true)
    if [[ "${option}" =~ ^(${reserved_opts})$ ]]; then
        die "--${option}: run.sh sets it, or does without; with the recipe's own run.sh" \
            "in egs2/${corpus}/asr1 you can choose it"
    elif [ "${for_asr}" != 0 ]; then
        asr_opts+=("--${option}" "${value}")
    elif [ "${for_data}" = 0 ]; then
        die "unknown option --${option}: neither run.sh nor the recipe's local/data.sh nor" \
            "ESPnet's asr.sh has it (see ./run.sh --help)"
    fi
    [[ ! "${option}" =~ ^(train_set|valid_set|test_sets)$ || "${value}" != *[,/]* ]] \
        || die "--${option}: '${value}' is not the name of a set; several have spaces between"
    if [ "${for_data}" != 0 ]; then
        # a folder; names of sets are asr.sh's, too
        if [[ "${value}" = */* ]] \
            || { [ "${for_asr}" = 0 ] && [ -d "${start_dir}/${value}" ]; }; then
            value=$(cd "${start_dir}" && realpath -m "${value}")
            [[ "${value}" != *[[:space:]]* ]] || die "--${option}: ESPnet's scripts do" \
                "not take a path with spaces: '${value}'; make a link to it without"
        fi
        # asr.sh splits --local_data_opts at spaces: lists go with commas
        value=${value// /,}
        [ ! -d "${value}" ] || inputs_corpus+=" $(corpus_checksum "${value}")"
        data_opts+=("--${option}" "${value:-,}")
        [ "${option}" != parts ] || parts=",${value//-/_},"
    fi
done
value_of() {  # The value of one of asr_opts, or what the recipe sets.
    local i value
    value=$(recipe_value "$1")
    for ((i = 0; i < ${#asr_opts[@]}; i += 2)); do
        [ "${asr_opts[i]}" != "--$1" ] || value=${asr_opts[i + 1]}
    done
    echo "${value}"
}
has_opt() { [[ " ${asr_opts[*]} " == *" --$1 "* ]]; }
use_lm=$(value_of use_lm)
[ "${use_lm}" = true ] || ! grep -q "^lm_weight: *[0.]*[1-9]" "${inference_config}" \
    || die "--inference_config: $(basename "${inference_config}") weighs a language model," \
        "of which there is none: add --use_lm true, or take another"
if [ -n "${parts}" ] && ! has_opt test_sets; then
    test_sets=
    for name in $(recipe_value test_sets); do
        [[ "${parts}" != *",${name},"* ]] || test_sets+="${test_sets:+ }${name}"
    done
    [ -n "${test_sets}" ] || die "--parts: none of them is to test on: add one of" \
        "$(recipe_value test_sets | tr _ -)"
    asr_opts+=(--test_sets "${test_sets}")
fi
set +u  # ESPnet's path.sh may read unset variables
# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./cmd.sh
set -u
if [ "${cuda_cmd:-}" = run.pl ]; then
    gpus=$({ nvidia-smi -L 2> /dev/null || true; } | wc -l)
    wanted=${ngpu:-$(recipe_value ngpu)}
    if [ "${wanted:-1}" -gt 0 ] && [ "${gpus}" = 0 ] && [ -z "${ngpu}" ]; then
        log "This machine has no GPU: --ngpu 0"
        ngpu=0
    elif [ "${wanted:-1}" -gt "${gpus}" ]; then
        die "--ngpu: ${wanted} GPUs are asked for, this machine has ${gpus}: add --ngpu ${gpus}"
    fi
fi
if [ "${ngpu}" = 0 ] && ! has_opt gpu_inference; then
    asr_opts+=(--gpu_inference false)
fi

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

# How far a command is: the epoch of a training, the stage of asr.sh or data.sh, or the
# utterance of an analysis.
# Usage: progress_of <train log or ""> <log file> <start>
progress_of() {
    local train_log=$1 logfile=$2 start=$3
    if [ -z "${train_log}" ]; then
        tr '\r' '\n' < "${logfile}" \
            | sed -n -e 's/^[-0-9T:]* (\(asr\|data\)\.sh:[^)]*) \([Ss]tage .*\)/\2/p' \
                -e 's/^Analysing.*| \([0-9]*\/[0-9]*\) .*<\([0-9:]*\),.*/utterance \1, \2 to go/p' \
                -e '/ GiB are free in /p' | tail -n 1
    # ESPnet moves the log of an earlier training away first
    elif [ -f "${train_log}" ] && [ "$(stat -c %Y "${train_log}")" -ge "${start}" ]; then
        tail -c 20000 "${train_log}" | grep -o '[0-9]*/[0-9]*epoch started.*' \
            | tail -n 1 | sed -e 's/\(.*\)epoch started/epoch \1/' \
                -e 's/. Estimated time to finish: \(.*\)/, \1 to go/' || true
    fi
}
# Run a command with its output in a log file, and show how it gets on.
# Usage: run_logged <what> <train log or ""> <log file> <command...>
run_logged() {
    local what=$1 train_log=$2 logfile=$3 now last="" last_shown=-10 start
    start=$(date +%s)
    shift 3
    # a session of its own, so that all of it can be stopped with this script
    setsid "$@" > "${logfile}" 2>&1 &
    child=$!
    while kill -0 "${child}" 2> /dev/null; do
        sleep 0.5
        now=$(progress_of "${train_log}" "${logfile}" "${start}")
        if [ "${now}" != "${last}" ] && [ $((SECONDS - last_shown)) -ge 5 ]; then
            log "${what}: ${now}"
            last=${now} last_shown=${SECONDS}
        fi
    done
    if ! wait "${child}"; then
        child=
        # the line that says why, rather than where; what checks says all in one go
        local why
        why=$(grep -hE "error: |^[A-Za-z_.]*(Error|Exception): .|Error: .|no longer exists" \
            "${logfile}" \
            | tail -n 1 || true)
        if [[ "${why}" =~ ^[a-z_]+\.py:\ error:\  ]]; then
            why=$(grep "^${BASH_REMATCH[0]}" "${logfile}")
            if [ "$(wc -l <<< "${why}")" -gt 1 ]; then
                echo "${why}" >&2
                why="for the $(wc -l <<< "${why}") reasons above"
            fi
        fi
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

# Tell the disk that a step needs, before it begins, and refuse what cannot end well.
# Usage: need_disk <bytes> <folder> <what for>
need_disk() {
    local free sizes
    free=$(df -PB1 "$2" | awk 'NR == 2 { print $4 }')
    sizes="about $(gib "$1") GiB, $(gib "${free}") GiB are free in ${recipe}"
    [ "${free}" -ge "$1" ] || die "no space left for $3: they take ${sizes}"
    [ "$1" -lt 100000000 ] || log "Disk for $3: ${sizes}"
}
gib() { awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 2^30 }'; }

wants() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }

run_opts=(--nj "${nj}" ${ngpu:+--ngpu "${ngpu}"})
# on GPUs the recipe knows how many decode side by side
[ "$(value_of gpu_inference)" = true ] || run_opts+=(--inference_nj "${nj}")
run_opts+=("${asr_opts[@]}")

mapfile -t configs < <(for model in ${models}; do config_of "${model}"; done)
inputs_configs="${configs[*]} ${asr_args} $(cat "${configs[@]}")"
inputs_configs+=" ${inference_args} $(< "${inference_config}") $(< "${root}/local/check_config.py")"
# Of each set of configs, for runs may go on side by side.
configs_tsv="exp/log/configs_$(cksum <<< "${inputs_configs}" | tr ' ' _).tsv"
if [ ! -f "${configs_tsv}" ]; then
    log "Stage 0: Checking ${configs[*]}"
    check_log=$(mktemp exp/log/check_config.XXXXXX)
    python3 -m espnet_reuse.run "${root}/local/check_config.py" \
        --configs "${configs[@]}" --asr_args "${asr_args}" \
        --inference_config "${inference_config}" --inference_args "${inference_args}" \
        > "${configs_tsv}.partial.$$" 2> "${check_log}" || die "$(tail -n 1 "${check_log}")"
    rm "${check_log}"
    mv "${configs_tsv}.partial.$$" "${configs_tsv}"
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
all_data_opts="${corpus_opts}|test_sets|(local_data|post_process_local_data)_opts"
lm_opts="use_word_lm|lm_.*|inference_lm|word_vocab_size|use_ngram|ngram_.*"
train_opts="asr_.*|pretrained_model|ignore_init_mismatch|feats_normalize|num_splits_asr"

inputs_data="$(cat run.sh local/*) $(opts_matching "${all_data_opts}") ${data_opts[*]}"
inputs_data+="${inputs_corpus}"
# the statistics are of the features of the first config; check_config.py has found the
# others' to be the same
inputs_tokens="${inputs_data} $(sed -n '/^frontend/,/^[^ f]/{/^[ f]/p}' "${configs[0]}")"
[[ "${asr_args}" != *--frontend* ]] || inputs_tokens+=" ${asr_args}"

inputs_lm="${inputs_tokens} $(opts_matching "${lm_opts}")"
if [ "${use_lm}" = true ]; then
    lm_config=$(value_of lm_config)
    [ -z "${lm_config}" ] || inputs_lm+=" $(< "${lm_config}")"
    lm_exp="exp/lm_$(tag_of "${lm_config:-train}" "$(value_of lm_args)")"
    run_opts+=(--lm_exp "${lm_exp}")
fi

has_lm() { [ "${use_lm}" != true ] || is_done exp/.done_lm "${inputs_lm}"; }
has_data() { [ -d dump/raw ] && is_done data/.done "${inputs_data}"; }
has_tokens() {
    compgen -G "exp/asr_stats*" > /dev/null && is_done data/.done_tokens "${inputs_tokens}"
}

# Not what an earlier run has left beside them.
read -ra sets <<< "$(value_of train_set) $(value_of train_set)_sp $(value_of valid_set) $(value_of test_sets)"

lock 8 --shared "the data"
if wants 1; then
    has_data || lock 8 --exclusive "the data"
    if has_data; then
        log "Stage 1: Data preparation: done already"
    else
        log "Stage 1: Data preparation: ${corpus}"
        rm -f data/.done data/.done_tokens
        run_logged "Stage 1: data/" "" exp/log/data.log \
            ./run.sh "${run_opts[@]}" --stage 1 --stop_stage 1 \
            --local_data_opts "$(value_of local_data_opts) ${data_opts[*]}"
        while read -r note; do log "Note: ${note}"; done \
            < <(sed -n 's/^note: //p' exp/log/data.log)
        python3 "${root}/local/check_data.py" "${sets[@]/#/data/}"
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
        python3 "${root}/local/check_data.py" "${sets[@]/#/dump/raw/}" \
            "${sets[@]/#/dump/raw/org/}"
        run_logged "Stage 2: tokens and statistics" "" exp/log/tokens.log \
            ./run.sh "${run_opts[@]}" --asr_config "${configs[0]}" \
            --asr_args "${asr_args}" --use_lm false --stage 5 --stop_stage 10
        mark_done data/.done_tokens "${inputs_tokens}"
    fi
    if ! has_lm; then
        lock 8 --exclusive "the data"
        log "Stage 2: Language model, shared by all models: ${lm_exp}"
        if grep -q "^external_text=" local/data.sh; then
            run_logged "Stage 2: text for the LM" "" exp/log/lm_text.log local/data.sh \
                "${data_opts[@]}" --external_text true \
                --stage 4 --stop_stage 4
        fi
        run_logged "Stage 2: statistics of the LM's text" "" exp/log/lm_stats.log \
            ./run.sh "${run_opts[@]}" --skip_stages "5 " --stage 4 --stop_stage 6
        run_logged "Stage 2: training the LM" "${lm_exp}/train.log" exp/log/lm.log \
            ./run.sh "${run_opts[@]}" --stage 7 --stop_stage 8
        mark_done exp/.done_lm "${inputs_lm}"
    fi
fi
lock 8 --shared "the data"

# ========================== Stages 3 to 6: models ==========================

# What the models are trained and tested on: other data under old names make them stale.
checksum_of() {
    local name
    for name in "$@"; do cat "dump/raw/${name}"/{text,utt2num_samples} || true; done \
        2> /dev/null | cksum
}
train_data=$(checksum_of "$(value_of train_set)"{,_sp} "$(value_of valid_set)")
# shellcheck disable=SC2046  # several sets
test_data=$(checksum_of $(value_of test_sets))

inference_tag=$(tag_of "${inference_config}" "${inference_args}")
[ "${use_lm}" != true ] || inference_tag+="_$(basename "${lm_exp}")"
commit_of_root() { git -C "${root}" rev-parse --short HEAD 2> /dev/null || echo unknown; }
compared=()
declare -A scored trained checkpoints
# One model with one seed, or the config's: training, decoding, scoring.
run_model() {
    local model=$1 seed=$2
    local what=${model}${seed:+, seed ${seed}} config asr_exp args checkpoint space
    config=$(config_of "${model}")
    asr_exp=$(exp_of "${model}" "${seed}")
    args=$(args_of "${seed}")
    read -r _ checkpoint space < <(grep -F "${config}"$'\t' "${configs_tsv}")
    compared+=("${model}=${asr_exp}")
    checkpoints[${asr_exp}]=${checkpoint}
    local model_opts=(--inference_asr_model "${checkpoint}" "${run_opts[@]}"
        --asr_config "${config}" --asr_args "${args}"
        --asr_tag "${asr_exp#exp/asr_}" --inference_config "${inference_config}"
        --inference_args "${inference_args}" --inference_tag "${inference_tag}")
    local decode_dir="${asr_exp}/${inference_tag}"
    local settings inputs_train settings_decode inputs_decode
    settings="${args} $(opts_matching "${corpus_opts}|${train_opts}") ${train_data}"
    settings+=" $(grep -v "^max_epoch:" "${config}")"
    local from="" warm_start="${asr_exp}/warm_start"
    if [[ "${model}" = *_warm ]]; then
        from=$(exp_of "${first}" "${seed}")
        settings+=" ${trained[${from}]}"
        model_opts+=(--pretrained_model "${warm_start}/model.pth")
    fi
    inputs_train="${settings} $(< "${config}")"
    settings_decode="${inputs_train} ${inference_args} $(< "${inference_config}")"
    [ "${use_lm}" != true ] || settings_decode+=" ${inputs_lm}"
    inputs_decode="${settings_decode} ${asr_opts[*]} ${test_data}"
    scored[${asr_exp}]=${inputs_decode} trained[${asr_exp}]=${inputs_train}
    wants 3 || wants 4 || wants 5 || return 0
    mkdir -p "${asr_exp}"
    exec 9>> "${asr_exp}/.lock"
    lock 9 --exclusive "${asr_exp}"

    if wants 3; then
        has_tokens || die "--stage 3: there are no tokens yet; start from --stage 1"
        has_lm || die "--stage 3: there is no language model yet; start from --stage 2"
        if is_done "${asr_exp}/.done_train" "${inputs_train}"; then
            log "Stage 3: Training ${what}: done already"
        else
            # ESPnet would resume, and pass old weights off as trained with new settings
            if [ -f "${asr_exp}/checkpoint.pth" ] \
                && ! is_done "${asr_exp}/.settings" "${settings}"; then
                die "${asr_exp} was trained with other settings than ${config} has now," \
                    "or on other data: remove it, or give the new config a name of its own"
            fi
            [ ! -f "${asr_exp}/checkpoint.pth" ] || [ "${resume}" = true ] || die \
                "--resume false: ${asr_exp} holds a training that was stopped: remove it" \
                "to start anew"
            if [ -n "${from}" ] && [ ! -f "${asr_exp}/checkpoint.pth" ]; then
                is_done "${from}/.done_train" "${trained[${from}]}" \
                    || die "--stage 3: ${first}, which ${what} starts from, is not trained yet"
                rm -rf "${warm_start}"
                run_logged "Stage 3: making ${what} of ${first}" "" "${asr_exp}/run_convert.log" \
                    python3 -m espnet_reuse.bin.convert \
                    --asr_train_config "${from}/config.yaml" \
                    --asr_model_file "${from}/${checkpoints[${from}]}" \
                    --reuse_group_size "$(encoder_option "${config}" reuse_group_size)" \
                    --data_dir "dump/raw/$(value_of valid_set)" --output_dir "${warm_start}"
                sed -n '/^Kept/,/^Heads/p' "${asr_exp}/run_convert.log"
            fi
            log "Stage 3: Training ${what}: ${config}"
            need_disk "${space}" "${asr_exp}" "the checkpoints of ${what}"
            rm -f "${asr_exp}"/.done_train "${asr_exp}"/*/.done_*
            mark_done "${asr_exp}/.settings" "${settings}"
            [ -f "${asr_exp}/checkpoint.pth" ] || commit_of_root > "${asr_exp}/commit"
            python3 "${root}/local/repair_checkpoint.py" "${asr_exp}"
            run_logged "Stage 3: training ${what}" "${asr_exp}/train.log" \
                "${asr_exp}/run_train.log" \
                ./run.sh "${model_opts[@]}" --stage 11 --stop_stage 11
            mark_done "${asr_exp}/.done_train" "${inputs_train}"
        fi
    fi

    if wants 4; then
        is_done "${asr_exp}/.done_train" "${inputs_train}" \
            || die "--stage 4: ${what} is not trained yet; start from --stage 3"
        if is_done "${decode_dir}/.done_decode" "${inputs_decode}"; then
            log "Stage 4: Decoding ${what}: done already"
        else
            log "Stage 4: Decoding ${what}: ${inference_config#"${root}/"}"
            # of other test sets, what was decoded in the same way is kept
            is_done "${decode_dir}/.settings" "${settings_decode}" || rm -rf "${decode_dir}"
            mkdir -p "${decode_dir}"
            rm -f "${decode_dir}"/.done_*
            mark_done "${decode_dir}/.settings" "${settings_decode}"
            run_logged "Stage 4: decoding ${what}" "" "${asr_exp}/run_decode.log" \
                ./run.sh "${model_opts[@]}" --stage 12 --stop_stage 12
            mark_done "${decode_dir}/.done_decode" "${inputs_decode}"
        fi
    fi

    if wants 5; then
        is_done "${decode_dir}/.done_decode" "${inputs_decode}" \
            || die "--stage 5: ${what} is not decoded yet; start from --stage 3"
        if is_done "${decode_dir}/.done_score" "${inputs_decode}"; then
            log "Stage 5: Scoring ${what}: done already"
        else
            log "Stage 5: Scoring ${what}: ${decode_dir}"
            rm -f exp/.done_compare
            run_logged "Stage 5: scoring ${what}" "" "${asr_exp}/run_score.log" \
                python3 "${root}/local/score.py" --expdir "${decode_dir}" --dumpdir dump/raw
            mark_done "${decode_dir}/.done_score" "${inputs_decode}"
        fi
    fi
}
for model in ${models}; do
    for seed in ${seeds:-""}; do
        run_model "${model}" "${seed}"
    done
done

if wants 6; then
    exec 9>> exp/.lock_compare
    lock 9 --exclusive "the comparison"
    for model in "${compared[@]}"; do
        asr_exp=${model#*=}
        is_done "${asr_exp}/${inference_tag}/.done_score" "${scored[${asr_exp}]}" \
            || die "--stage 6: ${model%%=*} is not scored yet; start from --stage 3"
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
    log "Written: egs2/${corpus}/asr1/exp/{RESULTS.md,comparison.json,comparison.png,comparison_details.md}"
fi

if wants 7; then
    if [ -z "${analysis_set}" ]; then
        analysis_set=$(value_of test_sets)
        analysis_set=${analysis_set##* }
    fi
    [ -d "dump/raw/${analysis_set}" ] || die "--analysis_set: there is no set" \
        "'${analysis_set}' in dump/raw; choose from: $(cd dump/raw 2> /dev/null && echo *)"
    for model in "${compared[@]}"; do
        asr_exp=${model#*=}
        is_done "${asr_exp}/.done_train" "${trained[${asr_exp}]}" \
            || die "--stage 7: ${model%%=*} is not trained yet; start from --stage 3"
        output="${asr_exp}/analysis/${analysis_set}"
        inputs_analysis="${trained[${asr_exp}]} ${analysis_args}"
        if is_done "${output}/.done_analysis" "${inputs_analysis}"; then
            log "Stage 7: Analysing ${model%%=*}: done already"
        else
            log "Stage 7: Analysing ${model%%=*} on ${analysis_set}"
            # shellcheck disable=SC2086  # several options
            run_logged "Stage 7: analysing ${model%%=*}" "" "${asr_exp}/run_analysis.log" \
                python3 -m espnet_reuse.bin.analyze \
                --asr_train_config "${asr_exp}/config.yaml" \
                --asr_model_file "${asr_exp}/${checkpoints[${asr_exp}]}" \
                --data_dir "dump/raw/${analysis_set}" --output "${output}" \
                --cache exp/analysis_cache ${analysis_args}
            mark_done "${output}/.done_analysis" "${inputs_analysis}"
        fi
        grep '^reuse_group_size' "${asr_exp}/run_analysis.log" || true
        log "Written: egs2/${corpus}/asr1/${output}/{report.html,analysis.json,*.png}"
    done
fi
