# shellcheck shell=bash
# Sourced by ESPnet's path.sh: the programs that ESPnet's own tools folder adds.
. "$(dirname "${BASH_SOURCE[0]}")"/espnet/tools/extra_path.sh

# For asr.sh, which sources this with its options set: it calls this function in stage 2, in
# place of ESPnet's script of the name, which needs sox.
scripts/utils/perturb_data_dir_speed.sh() {
    # shellcheck disable=SC2154
    python3 -m espnet_reuse.data.perturb_speed --nj "${nj}" "$@"
}
if [ -n "${speed_perturb_factors:-}" ]; then
    python3 -m espnet_reuse.data.perturb_speed -- "${speed_perturb_factors}"
    # asr.sh's defaults are of the set as it is, which it does not format then
    : "${bpe_train_text:="data/${train_set}/text"}" "${lm_train_text:="data/${train_set}/text"}"
fi
