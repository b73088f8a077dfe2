#!/usr/bin/env bash
. ../../local_data.sh

help_message=$(cat << EOH
Usage: $0 --data DIR

Makes data/{train,dev,test_a,test_b} from the data directories DIR/{train,dev,test},
with the silence around the speech left out; test_a has the utterances that
DIR/test/confidence marks with A, whose words are certain, test_b the others.

Options:
    --data  # Folder with the data directories (required).
EOH
)
data=
. utils/parse_options.sh
begin "$@"

marks=${data}/test/confidence
[ -f "${marks}" ] || refuse "--data: name the folder of the corpus; there is no file '${marks}'"

log "stage 1: Data preparation from ${data}"
without=$(join -v 1 <(sort "${data}/test/text") <(grep "\s[AB]$" "${marks}" | sort) \
    | cut -f 1 -d ' ' | paste -sd ' ')
[ -z "${without}" ] || refuse "${marks} has no mark, A or B, for: ${without}"
# of 8.6 s on average, 3.5 s are left
python3 -m espnet_reuse.data.prepare --train_set train --valid_set dev --test_sets test \
    --trim_silence 35 "${data}" data
for mark in A B; do
    # espnet_reuse.data.prepare has put the speaker before the ids
    utils/subset_data_dir.sh --utt-list \
        <(join <(sort "${data}/test/utt2spk") <(sort "${marks}") \
            | awk -v mark="${mark}" '$3 == mark { print $2 "-" $1 }') \
        data/test "data/test_${mark,}"
done
