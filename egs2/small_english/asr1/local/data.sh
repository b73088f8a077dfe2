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
Usage: $0 --picovoice_coffee DIR --speechocean762 DIR --librispeech DIR

Makes data/{train,dev} of the training sets of three corpora, and data/test_other of what
there is of LibriSpeech's test-other; the silence around the speech is left out.

Options (all required):
    --picovoice_coffee  # Folder with the data directories train, dev and test.
    --speechocean762    # Folder with the data directories train and test.
    --librispeech       # Folder that holds LibriSpeech/ or train-clean-100 and
                        # test-other, or some of their speakers.
EOH
)
picovoice_coffee=
speechocean762=
librispeech=

log "$0 $*"
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    log "Error: No positional arguments are required."
    exit 2
fi
for corpus in picovoice_coffee speechocean762 librispeech; do
    if [ ! -d "${!corpus}" ]; then
        log "Error: --${corpus}: name the folder of the corpus; there is no folder '${!corpus}'"
        exit 2
    fi
done

. ./path.sh

# sets <corpus> <folder> <train_set> <valid_set> <test_set>: data/local/<corpus>/<set>
sets() {
    python3 local/data_prep.py --train_set "$3" --valid_set "$4" --test_sets "$5" \
        --trim_silence 35 "$2" "data/local/$1"
}

log "stage 1: Data preparation from ${picovoice_coffee}, ${speechocean762}, ${librispeech}"
sets picovoice_coffee "${picovoice_coffee}" train dev test
sets speechocean762 "${speechocean762}" train "" test
mkdir -p data/local
python3 local/librispeech_data_prep.py --train_set train_clean_100 --allow_partial true \
    --parts train-clean-100,test-other "${librispeech}" data/local/whole
sets librispeech data/local/whole train_clean_100 dev test_other
rm -f data/partial
[ ! -f data/local/whole/partial ] || cp data/local/whole/partial data/partial

utils/combine_data.sh data/train data/local/{picovoice_coffee/train,speechocean762/train,librispeech/train_clean_100}
utils/combine_data.sh data/dev data/local/{picovoice_coffee,speechocean762,librispeech}/dev
utils/copy_data_dir.sh data/local/librispeech/test_other data/test_other

log "Successfully finished. [elapsed=${SECONDS}s]"
