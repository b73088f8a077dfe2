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
Usage: $0 [--stage 1] [--stop_stage 2]

Makes data/{train_nodev,train_dev,test,train_nodev_eval} from downloads.tar.gz, the
seven recordings of AN4 that come with ESPnet. Needs neither Kaldi nor sph2pipe.
EOH
)
stage=1         # Processes starts from the specified stage.
stop_stage=100  # Processes is stopped at the specified stage.

log "$0 $*"
. utils/parse_options.sh

if [ $# -ne 0 ]; then
    log "Error: No positional arguments are required."
    exit 2
fi

. ./path.sh

if [ ${stage} -le 1 ] && [ ${stop_stage} -ge 1 ]; then
    log "stage 1: Untar downloads.tar.gz"
    if [ ! -e downloads ]; then
        rm -rf downloads.partial
        mkdir downloads.partial
        tar -xzf downloads.tar.gz -C downloads.partial
        mv downloads.partial/downloads downloads
        rmdir downloads.partial
    fi
fi

if [ ${stage} -le 2 ] && [ ${stop_stage} -ge 2 ]; then
    log "stage 2: Data preparation"
    python3 local/data_prep.py downloads/an4 data
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
