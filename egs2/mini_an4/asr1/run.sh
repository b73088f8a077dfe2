#!/usr/bin/env bash
# Set bash to 'debug' mode, it will exit on :
# -e 'error', -u 'undefined variable', -o ... 'error in pipeline', -x 'print commands',
set -e
set -u
set -o pipefail

train_set="train_nodev"
valid_set="train_dev"
test_sets="test train_nodev_eval"

asr_config=conf/train_asr_conformer.yaml
inference_config=conf/decode_asr.yaml

# Stage 13 needs sclite: score.py does its work with jiwer, after the last stage.
./asr.sh \
    --python "python3 -m espnet_reuse.run" \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --nbpe 30 \
    --use_lm false \
    --skip_stages "13 " \
    --asr_config "${asr_config}" \
    --inference_config "${inference_config}" \
    --inference_asr_model train.loss.best.pth \
    --train_set "${train_set}" \
    --valid_set "${valid_set}" \
    --test_sets "${test_sets}" "$@"

if ! [[ " $* " =~ " --stop_stage " ]]; then
    . ./path.sh
    python3 ../../../local/score.py --expdir exp --dumpdir dump/raw
fi
