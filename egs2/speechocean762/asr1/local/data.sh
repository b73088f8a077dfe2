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
Usage: $0 --data DIR

Makes data/{train,dev,test} from speechocean762's directories DIR/{train,test}, dev of
speakers held out of train, and data/{train,dev,test}_phn, the same with phones of
DIR/resource/text-phone for words, without stress and position in the word.

Options:
    --data  # Folder with the data directories (required).
EOH
)
data=

log "$0 $*"
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    log "Error: No positional arguments are required."
    exit 2
fi
phones=${data}/resource/text-phone
if [ ! -f "${phones}" ]; then
    log "Error: --data: name the folder of the corpus; there is no file '${phones}'"
    exit 2
fi

. ./path.sh

log "stage 1: Data preparation from ${data}"
python3 local/data_prep.py --train_set train --valid_set "" --test_sets test \
    --trim_silence 35 "${data}" data
for name in train dev test; do
    utils/copy_data_dir.sh "data/${name}" "data/${name}_phn"
    # the phones of a word stand in a line, behind <utterance>.<number of the word>;
    # data_prep.py has put the speaker before the ids
    awk 'NR == FNR {
            split($1, word, ".")
            for (n = 2; n <= NF; n++) {
                sub(/[0-9]?_[BIES]$/, "", $n)
                phones[word[1]] = phones[word[1]] " " $n
            }
            words[word[1]]++
            next
        }
        { utt_id = $1; sub(/^[^-]*-/, "", utt_id) }
        { print $1 (words[utt_id] == NF - 1 ? phones[utt_id] : "") }' \
        "${phones}" "data/${name}/text" > "data/${name}_phn/text"
    without=$(awk 'NF == 1 { print $1; exit }' "data/${name}_phn/text")
    if [ -n "${without}" ]; then
        log "Error: ${phones} has not the phones of every word of ${without}"
        exit 1
    fi
done

log "Successfully finished. [elapsed=${SECONDS}s]"
