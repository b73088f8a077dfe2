    # An encoder whose layers reuse attention maps.
    echo "::group::==== attention map reuse, feats_type=raw, token_types=bpe ==="
    ./run.sh --ngpu 0 --stage 10 --stop-stage 13 --skip-packing false --feats-type "raw" --token-type "bpe" \
        --python "${python}" \
        --asr_config "conf/train_asr_conformer_reuse_debug.yaml" \
        --asr-args "--num_workers 0"
    echo "::endgroup::"
