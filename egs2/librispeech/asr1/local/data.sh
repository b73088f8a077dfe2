#!/usr/bin/env bash
. ../../local_data.sh

help_message=$(cat << EOH
Usage: $0 [options]

Makes data/{dev_clean,...}, data/dev and data/<train_set> of conf/asr.conf from
LibriSpeech. Needs neither Kaldi nor the program flac.

Options:
    --librispeech    # An existing corpus: the folder that holds LibriSpeech/ or the
                     # parts themselves (default: \$LIBRISPEECH, of the environment or
                     # of db.sh; without one the parts are downloaded into downloads/).
    --parts          # Parts to prepare, with commas between (default: all of train_set,
                     # and dev-clean,dev-other,test-clean,test-other).
    --allow_partial  # Whether to accept a corpus of which utterances are missing; where
                     # no dev part is chosen, training utterances are held out
                     # (default=false). data/partial says what is missing.
    --external_text  # Whether to download the text for the LM (default=false).
    --stage          # First stage to run (default=1).
    --stop_stage     # Last stage to run (default=100).
EOH
)
train_set=$(of_conf train_set)
stage=1
stop_stage=100
librispeech=${LIBRISPEECH:-}
parts=
allow_partial=false
external_text=false
. utils/parse_options.sh
begin "$@"
. ./db.sh
[ "${LIBRISPEECH}" = downloads ] || librispeech=${librispeech:-${LIBRISPEECH}}
chosen=(--train_set "${train_set}" --parts "${parts}")

if in_stages 1 && [ -z "${librispeech}" ]; then
    log "stage 1: Download to downloads/LibriSpeech"
    python3 local/download.py "${chosen[@]}" downloads
fi

if in_stages 2; then
    log "stage 2: Data preparation from ${librispeech:-downloads}"
    python3 local/data_prep.py "${chosen[@]}" --allow_partial "${allow_partial}" \
        "${librispeech:-downloads}" data
fi

if in_stages 3; then
    log "stage 3: Text for the LM: data/local/other_text/text"
    if "${external_text}"; then
        python3 local/prepare_lm_text.py data/local/other_text
    elif [ ! -e data/local/other_text/text ]; then
        mkdir -p data/local/other_text
        : > data/local/other_text/text   # conf/asr.conf names it in any case
    fi
fi
