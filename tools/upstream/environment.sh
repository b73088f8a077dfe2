# shellcheck shell=bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Sourced by make_patches.sh and check_patches.sh: what both need.

root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cache="${root}/tools/upstream/cache"
espnet_version=202611   # the patches are made for it
espnet=                 # the tree that `there` runs programs with
export OMP_NUM_THREADS=1
export GIT_AUTHOR_NAME="The espnet-reuse authors" GIT_AUTHOR_EMAIL=authors@espnet-reuse.invalid
export GIT_COMMITTER_NAME=${GIT_AUTHOR_NAME} GIT_COMMITTER_EMAIL=${GIT_AUTHOR_EMAIL}

die() {
    echo "${0##*/}: error: $*" >&2
    exit 1
}

# Set the variables that the options of `help_message` name; the other words are `words`.
# shellcheck disable=SC2154
parse_options() {
    words=()
    while [ $# -gt 0 ]; do
        case "$1" in
            --help | -h) echo "${help_message}"; exit 0 ;;
            -*)
                [[ "${help_message}" == *"    $1 "* ]] || die "$1 is not an option: see --help"
                [ -n "${2:-}" ] || die "$1 needs a value: see --help"
                printf -v "${1#--}" %s "$2"
                shift 2
                ;;
            *) words+=("$1"); shift ;;
        esac
    done
}

# Refuse what is not a clean ESPnet of the version that the patches are for.
check_tree() {
    local version changed
    [ -f "${tree}/version.txt" ] && [ -f "${tree}/espnet2/tasks/asr.py" ] \
        || die "--espnet_root: ${tree} is not ESPnet: it has no version.txt and espnet2"
    version=$(cat "${tree}/version.txt")
    [ "${version}" = "${espnet_version}" ] || die "--espnet_root: ${tree} is ESPnet" \
        "${version}, which was never tried: give ${espnet_version}, or ask" \
        "check_patches.sh --espnet_version ${version} what applies to it"
    [ -e "${tree}/.git" ] || return 0
    changed=$(git -C "${tree}" status --porcelain | wc -l)
    [ "${changed}" -eq 0 ] || die "--espnet_root: ${tree} has ${changed} changed or" \
        "untracked files: commit, stash or remove them"
}

# Set `tree` to ESPnet's source distribution, downloaded once.
fetch_espnet() {
    local name="espnet-${espnet_version}"
    local partial="${cache}/${name}.partial"
    tree="${cache}/${name}"
    [ ! -d "${tree}" ] || return 0
    echo "Downloading the source distribution of espnet ${espnet_version} (35 MB)" >&2
    rm -rf "${partial}"
    mkdir -p "${partial}"
    python3 -m pip download --disable-pip-version-check --no-deps --no-binary espnet \
        "espnet==${espnet_version}" -d "${partial}" > "${cache}/pip.log" 2>&1 \
        || die "espnet ${espnet_version} could not be downloaded: is there such a" \
            "version, and the network? (log: ${cache}/pip.log)"
    tar -xzf "${partial}/${name}.tar.gz" -C "${partial}"
    mv "${partial}/${name}" "${tree}"
    rm -rf "${partial}"
}

# Set `venv` to an environment that adds ESPnet's formatters and test tools to ours. It
# hides an installed espnet_reuse, since metadata that is first on the path counts.
make_venv() {
    local config="${tree}/.pre-commit-config.yaml" wanted packages
    venv="${cache}/venv"
    wanted=$(
        grep -v '^#' "${root}/tools/upstream/requirements.txt"
        awk '/repo:.*\/(black|isort)/ { name = /isort/ ? "isort" : "black" }
            name && /rev:/ { print name "==" $2; name = "" }' "${config}"
        python3 -c 'import site; print("# ours, without espnet_reuse:", *site.getsitepackages(), sep="\n# ")'
    )
    [ "$(cat "${venv}/wanted.txt" 2> /dev/null)" != "${wanted}" ] || return 0
    echo "Installing ESPnet's formatters and test tools into ${venv}" >&2
    rm -rf "${venv}"
    mkdir -p "${cache}"
    python3 -m venv --without-pip "${venv}"
    echo "${wanted}" > "${venv}/partial.txt"
    python3 -m pip --python "${venv}/bin/python3" install --disable-pip-version-check \
        -r "${venv}/partial.txt" > "${cache}/pip.log" 2>&1 \
        || die "pip install failed (log: ${cache}/pip.log)"
    packages=$("${venv}/bin/python3" -c 'import site; print(site.getsitepackages()[0])')
    python3 -c 'import site; print(*site.getsitepackages(), sep="\n")' > "${packages}/ours.pth"
    mkdir "${packages}/espnet_reuse-0.dist-info"
    printf 'Name: espnet-reuse\nVersion: 0\n' > "${packages}/espnet_reuse-0.dist-info/METADATA"
    mv "${venv}/partial.txt" "${venv}/wanted.txt"
}

# Run a program there: with the ESPnet tree in `espnet` and nothing of espnet_reuse.
there() {
    env PATH="${venv}/bin:${PATH}" PYTHONPATH="${espnet}" "$@"
}

# Have our environment's ESPnet and this repository, and in `tree` the ESPnet to patch.
set_up() {
    tree="${espnet_root:-}"
    [ -z "${tree}" ] || check_tree
    "${root}/tools/setup.sh" >&2
    # shellcheck source=/dev/null
    . "${root}/tools/activate_python.sh"
    export PYTHONPATH=${root}   # without an ESPnet of its own
    [ -n "${tree}" ] || fetch_espnet
}
