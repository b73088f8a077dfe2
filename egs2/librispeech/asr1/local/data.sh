#!/usr/bin/env bash
# Set bash to 'debug' mode, it will exit on :
# -e 'error', -u 'undefined variable', -o ... 'error in pipeline', -x 'print commands',
set -e
set -u
set -o pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
SECONDS=0

help_message=$(cat << EOH
Usage: $0 [options]

Makes data/{dev_clean,...}, data/dev, data/<train_set> of conf/asr.conf and data/<train_set>_sp
from LibriSpeech. Needs neither Kaldi nor the programs flac and sox.

Options:
    --librispeech    # An existing corpus: the folder that holds LibriSpeech/ or the
                     # parts themselves (default: \$LIBRISPEECH, of the environment or
                     # of db.sh; without one the parts are downloaded into downloads/).
    --parts          # Parts to prepare, with commas between (default: all of train_set,
                     # and dev-clean,dev-other,test-clean,test-other).
    --allow_partial  # Whether to accept a corpus of which utterances are missing; where
                     # no dev part is chosen, training utterances are held out
                     # (default=false). data/partial says what is missing.
    --speed_perturb_factors  # Of data/<train_set>_sp (default: those of conf/asr.conf).
    --external_text  # Whether to download the text for the LM (default=false).
    --nj             # The number of parallel jobs (default=4).
    --stage          # Processes starts from the specified stage (default=1).
    --stop_stage     # Processes is stopped at the specified stage (default=100).
EOH
)
# shellcheck source=/dev/null
of_conf() { (. conf/asr.conf && echo "${!1}"); }
train_set=$(of_conf train_set)
speed_perturb_factors=$(of_conf speed_perturb_factors)
stage=1
stop_stage=100
librispeech=
parts=
allow_partial=false
external_text=false
nj=4
of_environment=${LIBRISPEECH:-}

log "$0 $*"
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    log "Error: No positional arguments are required."
    exit 2
fi

. ./db.sh
. ./path.sh

librispeech=${librispeech:-${of_environment}}
if [ -z "${librispeech}" ] && [ "${LIBRISPEECH}" != downloads ]; then
    librispeech=${LIBRISPEECH}
fi

if [ ${stage} -le 1 ] && [ ${stop_stage} -ge 1 ] && [ -z "${librispeech}" ]; then
    log "stage 1: Download to downloads/LibriSpeech"
    python3 local/download.py --train_set "${train_set}" --parts "${parts}" downloads
fi

if [ ${stage} -le 2 ] && [ ${stop_stage} -ge 2 ]; then
    log "stage 2: Data preparation from ${librispeech:-downloads}"
    python3 local/data_prep.py --train_set "${train_set}" --parts "${parts}" \
        --allow_partial "${allow_partial}" "${librispeech:-downloads}" data
fi

if [ ${stage} -le 3 ] && [ ${stop_stage} -ge 3 ] && [ -n "${speed_perturb_factors//[, ]/}" ]; then
    log "stage 3: Speed perturbation: data/${train_set} -> data/${train_set}_sp"
    python3 -m espnet_reuse.data.perturb_speed --factors "${speed_perturb_factors}" --nj "${nj}" \
        "data/${train_set}"
fi

if [ ${stage} -le 4 ] && [ ${stop_stage} -ge 4 ]; then
    log "stage 4: Text for the LM: data/local/other_text/text"
    if "${external_text}"; then
        python3 local/prepare_lm_text.py data/local/other_text
    elif [ ! -e data/local/other_text/text ]; then
        mkdir -p data/local/other_text
        : > data/local/other_text/text   # conf/asr.conf names it in any case
    fi
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
