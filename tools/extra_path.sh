# shellcheck shell=bash
# Sourced by ESPnet's path.sh: the programs that ESPnet's own tools folder adds.
. "$(dirname "${BASH_SOURCE[0]}")"/espnet/tools/extra_path.sh

# What follows is for asr.sh, which sources this file once it has its options.
# Its stage 2 calls this in place of ESPnet's script of the name, which needs sox.
scripts/utils/perturb_data_dir_speed.sh() {
    # shellcheck disable=SC2154
    python3 -m espnet_reuse.data.perturb_speed --nj "${nj}" "$@"
}
# The text that asr.sh takes where these name none is of a set that it does not make then.
if [ -n "${speed_perturb_factors:-}" ]; then
    # shellcheck disable=SC2154
    : "${bpe_train_text:="data/${train_set}/text"}" "${lm_train_text:="data/${train_set}/text"}"
fi
