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

Makes data/{train_sp,dev,test_a,test_b} from the data directories DIR/{train,dev,test},
with the silence around the speech left out; train_sp has the speech at three speeds,
test_a the utterances that DIR/test/confidence marks with A, whose words are certain,
test_b the others.

Options:
    --data  # Folder with the data directories (required).
EOH
)
data=
# shellcheck source=/dev/null
of_conf() { (. conf/asr.conf && echo "${!1}"); }
speed_perturb_factors=$(of_conf speed_perturb_factors)

log "$0 $*"
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    log "Error: No positional arguments are required."
    exit 2
fi
if [ ! -f "${data}/test/confidence" ]; then
    log "Error: --data: name the folder of the corpus; there is no file '${data}/test/confidence'"
    exit 2
fi

. ./path.sh

log "stage 1: Data preparation from ${data}"
without=$(awk 'NR == FNR { marked[$1] = $2 ~ /^[AB]$/; next } !marked[$1] { print $1 }' \
    "${data}"/test/{confidence,text} | paste -sd ' ')
if [ -n "${without}" ]; then
    log "Error: ${data}/test/confidence has no mark, A or B, for: ${without}"
    exit 1
fi
# of 8.6 s on average, 3.5 s are left
python3 -m espnet_reuse.data.prepare --train_set train --valid_set dev --test_sets test \
    --trim_silence 35 "${data}" data
rm -rf data/speed_perturb  # speech that was cut in another way
python3 -m espnet_reuse.data.perturb_speed --factors "${speed_perturb_factors}" data/train
for mark in A B; do
    # espnet_reuse.data.prepare has put the speaker before the ids
    utils/subset_data_dir.sh --utt-list \
        <(awk -v mark="${mark}" 'NR == FNR { speaker[$1] = $2; next }
            $2 == mark { print speaker[$1] "-" $1 }' \
            "${data}"/test/{utt2spk,confidence}) \
        data/test "data/test_${mark,}"
done

log "Successfully finished. [elapsed=${SECONDS}s]"
