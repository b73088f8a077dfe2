#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Prove the two patches for ESPnet in a copy of its tree.

set -euo pipefail

help_message=$(cat << EOF
Usage: tools/upstream/check_patches.sh [options] PATCH_DIR

Applies the patches that make_patches.sh has written to a copy of ESPnet and checks there
format and style, the configurations, the registration, the mini_an4 recipe, checkpoints
in both directions, our tests and ESPnet's encoder tests. Some 20 minutes on 2 cores.

Options:
    --espnet_root     # A clean checkout or source distribution of ESPnet 202611
                      # (default: the source distribution, downloaded once).
    --espnet_version  # Another release, to see what applies to it (default: 202611).
    --every           # Run every Nth of ESPnet's 43,800 encoder tests (default: 1, all).
EOF
)
# shellcheck source=tools/upstream/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
espnet_root=
every=1
patch_dir=

while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h)
            echo "${help_message}"
            exit 0
            ;;
        --espnet_root | --espnet_version | --every)
            [ -n "${2:-}" ] || die "$1 needs a value: see --help"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        -*) die "$1 is not an option: see --help" ;;
        *)
            [ -z "${patch_dir}" ] || die "it takes one PATCH_DIR, but got $1, too"
            patch_dir=$1
            shift
            ;;
    esac
done
[ -n "${patch_dir}" ] || die "PATCH_DIR is missing: name a folder that make_patches.sh has written"
patches=("${patch_dir}"/000[12]-*.patch)
[ ${#patches[@]} -eq 2 ] || die "PATCH_DIR: ${patch_dir} has no two patches:" \
    "name a folder that make_patches.sh has written"
[[ "${every}" =~ ^[1-9][0-9]*$ ]] || die "--every: ${every} is not a positive integer"
[[ "${espnet_version}" =~ ^[0-9]{6}$ ]] || die "--espnet_version: ${espnet_version} is not" \
    "a release such as 202611"
[ -z "${espnet_root}" ] || check_tree "${espnet_root}"

set_up
tree="${espnet_root}"
[ -n "${tree}" ] || fetch_espnet "${espnet_version}"

work=$(mktemp -d)
trap 'rm -rf "${work}"' EXIT
espnet="${work}/espnet"
log="${work}/log"
checks="${root}/tools/upstream/check_tree.py"
SECONDS=0

# Run a step with its output in a log; say how long it took, or why it failed.
step() {
    local what=$1 started=${SECONDS} status
    shift
    set +e   # in a condition, the step's own set -e would have no effect
    (set -e; "$@") > "${log}" 2>&1
    status=$?
    set -e
    if [ "${status}" -ne 0 ]; then
        tail -n 40 "${log}" >&2
        die "${what}: failed, see above"
    fi
    echo "${what}: passed ($((SECONDS - started)) s)"
}

added_files() {
    git -C "${espnet}" diff --name-only --diff-filter=A pristine -- "$@"
}

copy_tree() {
    mkdir "${espnet}"
    if [ -e "${tree}/.git" ]; then
        git -C "${tree}" archive HEAD | tar -x -C "${espnet}"
    else
        cp -r "${tree}/." "${espnet}"
    fi
    cd "${espnet}"
    git init -q
    git config user.name "The espnet-reuse authors"
    git config user.email "authors@espnet-reuse.invalid"
    git config commit.gpgsign false
    git add -A -f
    git commit -q -m "ESPnet ${espnet_version}"
    git tag pristine
}

# Apply the patches, or list the files that stand in their way.
apply_patches() {
    local patch misfits status=0
    for patch in "${patches[@]}"; do
        patch=$(realpath "${patch}")
        if git -C "${espnet}" am -q "${patch}" > "${log}" 2>&1; then
            echo "${patch##*/}: applies"
            continue
        fi
        status=1
        git -C "${espnet}" am --abort
        misfits=$(git -C "${espnet}" apply --check "${patch}" 2>&1 \
            | sed -n 's/^error: \(patch failed: \)\?\([^:]*\):.*/    \2/p' | sort -u)
        echo "${patch##*/}: does not apply; of its $(grep -c '^diff --git' "${patch}") files these differ:"
        echo "${misfits}"
    done
    return "${status}"
}

# ESPnet's pre-commit, and the style checks of its ci/.
check_style() {
    local files
    cd "${espnet}"
    mapfile -t files < <(git diff --name-only pristine -- '*.py')
    there isort --check "${files[@]}"
    there black --check "${files[@]}"
    there pycodestyle --show-source "${files[@]}"
    there flake8 --show-source --extend-ignore=D "${files[@]}"
    mapfile -t files < <(added_files 'espnet*.py')
    # constructors are documented in their class, as in ESPnet's encoders
    there flake8 --show-source --extend-ignore=D107 "${files[@]}"
    bash -n ci/test_integration_espnet2.sh
    git diff --check pristine
}

# ESPnet's way to run its tests, with its limit of 10 s each.
run_pytest() {
    cd "${espnet}"
    there env EVERY="$1" PYTHONPATH="${espnet}:${root}/tools/upstream" python3 -m pytest -q \
        -o addopts= -p no:cacheprovider -p every -n 2 --execution-timeout 10.0 "${@:2}"
}

# What ESPnet's ci/test_configuration_espnet2.sh does with every configuration.
check_configs() {
    local configs
    cd "${espnet}"
    mapfile -t configs < <(added_files '*.yaml')
    there python3 "${checks}" configs "${configs[@]}"
}

# ESPnet's recipe with plain python3. Ours stands in for what needs Kaldi and sph2pipe,
# the data, and sclite, the score.
recipe_options=(--ngpu 0 --use_lm false --test_sets "train_dev test"
    --asr_config conf/train_asr_conformer_reuse_debug.yaml
    --asr_args "--num_workers 0 --max_epoch 2 --num_att_plot 1")
run_recipe() {
    cd "${espnet}/egs2/mini_an4/asr1"
    for name in scripts pyscripts steps utils; do   # the source distribution lacks links
        [ -e "${name}" ] || ln -s "../../TEMPLATE/asr1/${name}" .
    done
    # shellcheck disable=SC2016
    printf 'export PATH=%q:${PATH} PYTHONPATH=%q TORCH_DEVICE_BACKEND_AUTOLOAD=0\n' \
        "${venv}/bin" "${espnet}" > "${espnet}/tools/activate_python.sh"
    tar -xzf downloads.tar.gz
    here python3 "${root}/egs2/mini_an4/asr1/local/data_prep.py" downloads/an4 data
    ./run.sh "${recipe_options[@]}" --stage 2 --stop_stage 12 --asr_tag there
    here python3 "${root}/local/score.py"
    grep "/test|2|" exp/asr_there/RESULTS.md
}

# A checkpoint of the recipe there, and one of the same training here: either side loads
# both and encodes them alike.
exchange_checkpoints() {
    local model=valid.acc.ave.pth models
    cd "${espnet}/egs2/mini_an4/asr1"
    echo "export PYTHONPATH=$(printf %q "${root}")" > "${espnet}/tools/activate_python.sh"
    ./run.sh "${recipe_options[@]}" --stage 11 --stop_stage 11 --asr_tag here \
        --python "python3 -m espnet_reuse.run"
    models=(exp/asr_there/{config.yaml,"${model}"} exp/asr_here/{config.yaml,"${model}"})
    there python3 "${checks}" encode "${work}/there" espnet2 "${models[@]}"
    here python3 -m espnet_reuse.run \
        "${checks}" encode "${work}/here" espnet_reuse "${models[@]}"
    cmp "${work}/here" "${work}/there"
}

step "A copy of ESPnet ${espnet_version}" copy_tree
apply_patches || die "the patches do not apply to ESPnet ${espnet_version}: see the files above"
make_venv "${tree}"
step "isort, black, flake8 and pycodestyle with ESPnet's settings" check_style
step "Configurations: --print_config and dry runs" check_configs
config_count=$(added_files '*.yaml' | wc -l)
step "Every task offers the encoders, and espnet_reuse leaves them in place" \
    there env PYTHONPATH="${espnet}:${root}" python3 "${checks}" tasks
step "mini_an4 trains, decodes and scores with plain python3" run_recipe
step "Checkpoints trained there load here and the reverse, with equal output" \
    exchange_checkpoints
mapfile -t tests < <(added_files test)
step "The patches' tests" run_pytest 1 "${tests[@]}"
new_tests=$(sed -n 's/^\([0-9]* passed\).*/\1/p' "${log}")
what="ESPnet's encoder tests (1 in ${every})"
encoder_tests=(test/espnet2/asr/encoder)
if ! there python3 -c "import fairseq" 2> /dev/null; then   # they fail without the patches, too
    what+=" but those of AV-HuBERT, which need fairseq"
    encoder_tests+=(--ignore test/espnet2/asr/encoder/test_avhubert_encoder.py)
fi
step "${what}" run_pytest "${every}" "${encoder_tests[@]}"
echo "    $(tail -n 1 "${log}")"

size_of() { git -C "${espnet}" diff --shortstat "$1~" "$1"; }
echo "${patches[0]##*/}:$(size_of HEAD~), tests: ${new_tests}"
echo "${patches[1]##*/}:$(size_of HEAD), tests: ${config_count} configurations, a recipe"
echo "Passed in ${SECONDS} s."
