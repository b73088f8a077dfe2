#!/usr/bin/env bash
. ../../local_data.sh

help_message=$(cat << EOH
Usage: $0 [options]

Makes data/{train_nodev,train_dev,test,train_nodev_eval} from downloads.tar.gz, the
seven recordings of AN4 that come with ESPnet. Needs neither Kaldi nor sph2pipe.

Options:
    --stage       # First stage to run (default=1).
    --stop_stage  # Last stage to run (default=100).
EOH
)
stage=1
stop_stage=100
. utils/parse_options.sh
begin "$@"

if in_stages 1 && [ ! -e downloads ]; then
    log "stage 1: Untar downloads.tar.gz"
    rm -rf downloads.partial
    mkdir downloads.partial
    tar -xzf downloads.tar.gz -C downloads.partial
    mv downloads.partial/downloads downloads
    rmdir downloads.partial
fi

if in_stages 2; then
    log "stage 2: Data preparation"
    python3 local/data_prep.py downloads/an4 data
fi
