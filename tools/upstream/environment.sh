# shellcheck shell=bash

# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

# Sourced by make_patches.sh and check_patches.sh: what both need.

root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
cache="${root}/tools/upstream/cache"
espnet_version=202611   # which the patches are for
espnet=                 # the tree that `there` runs programs with

die() {
    echo "${0##*/}: error: $*" >&2
    exit 1
}

# Refuse what is not a clean ESPnet of the version that the patches are for.
check_tree() {
    local tree=$1 version changed
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
    local version=$1 partial="${cache}/espnet-$1.partial"
    tree="${cache}/espnet-${version}"
    [ ! -d "${tree}" ] || return 0
    echo "Downloading the source distribution of espnet ${version} (35 MB)" >&2
    rm -rf "${partial}"
    mkdir -p "${partial}"
    python3 -m pip download --disable-pip-version-check --no-deps --no-binary espnet \
        "espnet==${version}" -d "${partial}" > "${cache}/pip.log" 2>&1 \
        || { rm -rf "${partial}"; die "espnet ${version} could not be downloaded: is there" \
            "such a version, and the network? (log: ${cache}/pip.log)"; }
    tar -xzf "${partial}/espnet-${version}.tar.gz" -C "${partial}"
    mv "${partial}/espnet-${version}" "${tree}"
    rm -rf "${partial}"
}

# Set `venv` to an environment that adds ESPnet's formatters and test tools to ours.
make_venv() {
    local config="$1/.pre-commit-config.yaml" wanted
    venv="${cache}/venv"
    wanted=$(
        grep -v '^#' "${root}/tools/upstream/requirements.txt"
        awk '/repo:.*\/(black|isort)/ { name = /isort/ ? "isort" : "black" }
            name && /rev:/ { print name "==" $2; name = "" }' "${config}"
        python3 -c 'import site; print("#", *site.getsitepackages(), sep="\n# ")'
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
    python3 -c 'import site; print(*site.getsitepackages(), sep="\n")' \
        > "$("${venv}/bin/python3" -c 'import site; print(site.getsitepackages()[0])')/ours.pth"
    mv "${venv}/partial.txt" "${venv}/wanted.txt"
}

# Run a program there: with the ESPnet tree in `espnet` and nothing of espnet_reuse.
there() {
    env PATH="${venv}/bin:${PATH}" PYTHONPATH="${espnet}" TORCH_DEVICE_BACKEND_AUTOLOAD=0 \
        OMP_NUM_THREADS=1 "$@"
}

# Run a program here: with our environment's ESPnet and this repository.
here() {
    env PYTHONPATH="${root}" OMP_NUM_THREADS=1 "$@"
}

set_up() {
    "${root}/tools/setup.sh" >&2
    # shellcheck source=/dev/null
    . "${root}/tools/activate_python.sh"
}
