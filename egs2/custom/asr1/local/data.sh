#!/usr/bin/env bash
. ../../local_data.sh

help_message=$(cat << EOH
Usage: $0 --data DIR [options]

Makes data/<set> from the Kaldi-style data directories DIR/<set>: wav.scp, with paths
that are absolute or relative to DIR, of WAV, FLAC, MP3, Ogg, AIFF, AU, CAF or SPHERE
files; text; and, if there are, utt2spk and segments.

Options:
    --data       # Folder with the data directories (required).
    --train_set  # Directory to train on (default: that of conf/asr.conf).
    --valid_set  # Directory to validate on (default: that of conf/asr.conf, "dev"; where
                 # DIR has no dev, some speakers of the training set, a twentieth
                 # of its utterances, are held out).
    --test_sets  # Directories to test on, with commas between (default: those of
                 # conf/asr.conf).
    --min_wav_duration  # Leave out shorter utterances, but of test sets (default=0.1 s).
    --max_wav_duration  # Leave out longer utterances, but of test sets (default=20 s).
    --trim_silence  # Leave out silence before and after the speech: what is this many dB
                    # below the loudest, e.g. 35 (default: leave out nothing).
    --allow_commands  # Whether to run the commands in wav.scp, lines that end with "|", in
                      # DIR, and to keep their audio (default=false).
EOH
)
data=
trim_silence=
allow_commands=false
min_wav_duration=0.1
max_wav_duration=20
train_set=$(of_conf train_set)
valid_set=$(of_conf valid_set)
test_sets=$(of_conf test_sets)
[ "${valid_set}" != dev ] || valid_set=   # may be held out
. utils/parse_options.sh
begin "$@"

[ -n "${data}" ] || refuse "--data: name the folder that holds the data directories" \
    "${train_set} ${valid_set:-dev} ${test_sets}"
[[ "${trim_silence:-1}" =~ ^[1-9][0-9]*$ ]] \
    || refuse "--trim_silence: '${trim_silence}' is not a positive number of dB, e.g. 35"

log "stage 1: Data preparation from ${data}"
python3 -m espnet_reuse.data.prepare --train_set "${train_set}" --valid_set "${valid_set}" \
    --test_sets "${test_sets}" ${trim_silence:+--trim_silence "${trim_silence}"} \
    --allow_commands "${allow_commands}" \
    --min_wav_duration "${min_wav_duration}" --max_wav_duration "${max_wav_duration}" \
    "${data}" data
