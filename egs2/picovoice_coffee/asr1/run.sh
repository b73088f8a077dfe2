#!/usr/bin/env bash
# Set bash to 'debug' mode, it will exit on :
# -e 'error', -u 'undefined variable', -o ... 'error in pipeline', -x 'print commands',
set -e
set -u
set -o pipefail

train_set="train"
valid_set="dev"
test_sets="test_a test_b"

asr_config=conf/train_asr_conformer.yaml
lm_config=conf/train_lm.yaml
inference_config=conf/decode_asr.yaml

# Stage 2 needs sox: local/data.sh perturbs the speed. Stage 13 needs sclite:
# local/score.py of the top level does its work with jiwer.
./asr.sh \
    --python "python3 -m espnet_reuse.run" \
    --lang en \
    --ngpu 1 \
    --speed_perturb_factors "0.9 1.0 1.1" \
    --feats_normalize utt_mvn \
    --token_type char \
    --use_lm false \
    --skip_stages "2 13 " \
    --asr_config "${asr_config}" \
    --lm_config "${lm_config}" \
    --inference_config "${inference_config}" \
    --inference_asr_model valid.acc.ave.pth \
    --train_set "${train_set}" \
    --valid_set "${valid_set}" \
    --test_sets "${test_sets}" \
    --lm_train_text "data/${train_set}/text" "$@"
