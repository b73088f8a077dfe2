#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Prove the patches for ESPnet in copies of its tree.

set -euo pipefail

help_message=$(cat << EOF
Usage: tools/upstream/check_patches.sh [options] PATCH_DIR

Applies the patches that make_patches.sh has written to copies of ESPnet. It checks all for
format and style; 0001 and 0002 for the configurations, the registration, the mini_an4
recipe and checkpoints in both directions; 0003 for encoders that plain python3 has once
this package is installed. Then it runs their tests and ESPnet's encoder tests. Some 20
minutes on 2 cores.

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
parse_options "$@"
[ ${#words[@]} -eq 1 ] || die "it takes one PATCH_DIR, not ${#words[@]}: name a folder" \
    "that make_patches.sh has written"
patches=("${words[0]}"/000[123]-*.patch)
[ ${#patches[@]} -eq 3 ] || die "PATCH_DIR: ${words[0]} does not have three patches:" \
    "name a folder that make_patches.sh has written"
[[ "${every}" =~ ^[1-9][0-9]*$ ]] || die "--every: ${every} is not a positive integer"
[[ "${espnet_version}" =~ ^[0-9]{6}$ ]] || die "--espnet_version: ${espnet_version} is not" \
    "a release such as 202611"

set_up
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
    git config commit.gpgsign false
    git add -A -f
    git commit -q -m "ESPnet ${espnet_version}"
    git tag pristine
}

# Apply the patches, or list the files that stand in their way.
apply_patches() {
    local patch status=0
    for patch in "${patches[@]}"; do
        if git -C "${espnet}" am -q < "${patch}" > "${log}" 2>&1; then
            echo "${patch##*/}: applies"
            continue
        fi
        status=1
        git -C "${espnet}" am --abort
        echo "${patch##*/}: does not apply; of its $(grep -c '^diff --git' "${patch}") files these differ:"
        git -C "${espnet}" apply --check < "${patch}" 2>&1 \
            | sed -n 's/^error: \(patch failed: \)\?\([^:]*\):.*/    \2/p' | sort -u
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
run_tests() {
    local others processes=0   # two would collect all tests twice
    cd "${espnet}"
    [ "${every}" -gt 1 ] || processes=2
    mapfile -t others < <(added_files test ":!${encoder_tests[0]}")
    there env EVERY="${every}" WHOLE_FILES="$(added_files test)" \
        PYTHONPATH="${espnet}:${root}/tools/upstream" \
        python3 -m pytest -q -o addopts= -p no:cacheprovider -p check_tree -n "${processes}" \
        --execution-timeout 10.0 "${encoder_tests[@]}" "${others[@]}"
}

# What ESPnet's ci/test_configuration_espnet2.sh does with every configuration.
check_configs() {
    cd "${espnet}"
    added_files '*.yaml' | there xargs python3 "${checks}" configs
}

# ESPnet's recipe with plain python3. Ours stands in for what needs Kaldi and sph2pipe,
# the data, and sclite, the score.
recipe_options=(--ngpu 0 --use_lm false --test_sets test
    --asr_config conf/train_asr_conformer_reuse_debug.yaml
    --asr_args "--num_workers 0 --max_epoch 1 --num_att_plot 1")
run_recipe() {
    cd "${espnet}/egs2/mini_an4/asr1"
    # the source distribution lacks links
    ln -sf ../../TEMPLATE/asr1/{scripts,pyscripts,steps,utils} .
    # shellcheck disable=SC2016
    printf 'export PATH=%q:${PATH} PYTHONPATH=%q\n' "${venv}/bin" "${espnet}" \
        > "${espnet}/tools/activate_python.sh"
    tar -xzf downloads.tar.gz
    python3 "${root}/egs2/mini_an4/asr1/local/data_prep.py" downloads/an4 data
    ./run.sh "${recipe_options[@]}" --stage 2 --stop_stage 12 --asr_tag there
    python3 "${root}/local/score.py"
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
    python3 -m espnet_reuse.run \
        "${checks}" encode "${work}/here" espnet_reuse "${models[@]}"
    cmp "${work}/here" "${work}/there"
}

# A plain asr_train with our encoder: refused until this package is installed.
check_entry_points() {
    local espnet="${entry_points}" source="${work}/source" package="${work}/package"
    local train=(python3 "${checks}" configs
        egs2/mini_an4/asr1/conf/train_asr_conformer_reuse_debug.yaml)
    cd "${root}/tools/upstream/files"
    there "${train[@]}" 2>&1 | tee "${work}/refused" && return 1
    grep "^ValueError: --encoder must be one of .*: --encoder conformer_reuse" "${work}/refused"
    mkdir "${source}"
    cp -r "${root}"/{LICENSE,README.md,pyproject.toml,espnet_reuse} "${source}"
    there python3 -m pip install -q --disable-pip-version-check --no-deps \
        --no-build-isolation --target "${package}" "${source}"
    there env PYTHONPATH="${espnet}:${package}" "${train[@]}" 2>&1 | tee "${work}/built"
    grep "(encoder): ConformerReuseEncoder" "${work}/built"
    there env PYTHONPATH="${espnet}:${package}" python3 "${checks}" tasks espnet_reuse
}

step "A copy of ESPnet ${espnet_version}" copy_tree
apply_patches || die "the patches do not apply to ESPnet ${espnet_version}: see the files above"
entry_points="${work}/entry_points"
git -C "${espnet}" worktree add -q --detach "${entry_points}" pristine
git -C "${entry_points}" am -q < "${patches[2]}"
make_venv
step "isort, black, flake8 and pycodestyle with ESPnet's settings" check_style
git -C "${espnet}" checkout -q --detach HEAD~
step "Configurations: --print_config and dry runs" check_configs
step "Every task offers the encoders, and espnet_reuse leaves them in place" \
    there env PYTHONPATH="${espnet}:${root}" python3 "${checks}" tasks espnet2
step "mini_an4 trains, decodes and scores with plain python3" run_recipe
step "Checkpoints trained there load here and the reverse, with equal output" \
    exchange_checkpoints
step "With 0003 alone, every task offers the encoders once espnet_reuse is installed" \
    check_entry_points
git -C "${espnet}" checkout -q -
what="The patches' tests and ESPnet's encoder tests (1 in ${every})"
encoder_tests=(test/espnet2/asr/encoder)
if ! there python3 -c "import fairseq" 2> /dev/null; then   # they fail without the patches, too
    what+=" but those of AV-HuBERT, which need fairseq"
    encoder_tests+=(--ignore test/espnet2/asr/encoder/test_avhubert_encoder.py)
fi
step "${what}" run_tests
echo "    $(grep ' passed' "${log}")"
for n in 0 1 2; do
    echo "${patches[n]##*/}:$(git -C "${espnet}" show --format= --shortstat "HEAD~$((2 - n))")"
done
echo "Passed in ${SECONDS} s."
