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
Usage: $0 --data DIR [options]

Makes data/{train,dev,test} from speechocean762's directories DIR/{train,test}, dev of
speakers held out of train.

Options:
    --data        # Folder with the data directories (required).
    --token_type  # char: the words. word: for the words of each sentence their phones in
                  # DIR/resource/text-phone, without stress and position in the word
                  # (default: that of conf/asr.conf).
EOH
)
data=
# shellcheck source=/dev/null
of_conf() { (. conf/asr.conf && echo "${!1}"); }
token_type=$(of_conf token_type)

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
if [[ ! "${token_type}" =~ ^(word|char)$ ]]; then
    log "Error: --token_type: '${token_type}' is neither word, for phones, nor char"
    exit 2
fi

. ./path.sh

log "stage 1: Data preparation from ${data}"
python3 -m espnet_reuse.data.prepare --train_set train --valid_set "" --test_sets test \
    --trim_silence 35 "${data}" data
if [ "${token_type}" = word ]; then
    for name in train dev test; do
        # text-phone has a line for each word: <utterance>.<number of the word> <phones>;
        # espnet_reuse.data.prepare has put the speaker before the ids
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
            "${phones}" "data/${name}/text" > "data/${name}/text.phones"
        without=$(awk 'NF == 1 { print $1; exit }' "data/${name}/text.phones")
        if [ -n "${without}" ]; then
            log "Error: ${phones} has not the phones of every word of ${without}"
            exit 1
        fi
        mv "data/${name}/text.phones" "data/${name}/text"
    done
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
