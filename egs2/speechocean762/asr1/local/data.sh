#!/usr/bin/env bash
. ../../local_data.sh

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
token_type=$(of_conf token_type)
. utils/parse_options.sh
begin "$@"

phones=${data}/resource/text-phone
[ -f "${phones}" ] || refuse "--data: name the folder of the corpus; there is no file '${phones}'"
[[ "${token_type}" =~ ^(word|char)$ ]] \
    || refuse "--token_type: '${token_type}' is neither word, for phones, nor char"

log "stage 1: Data preparation from ${data}"
python3 -m espnet_reuse.data.prepare --train_set train --valid_set "" --test_sets test \
    --trim_silence 35 "${data}" data
if [ "${token_type}" = word ]; then
    python3 local/words_to_phones.py "${phones}" data/{train,dev,test}
fi
