#!/usr/bin/env bash

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

# Install the package with its dependencies, unpack ESPnet's recipes and link ours to them.

set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (setup.sh:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

help_message=$(cat << HELP
Usage: tools/setup.sh

Installs what the recipes and the tests need, without root. A second call only
checks, and an interrupted one is continued by the next.

Environment:
    PYTHON       # Python 3.12 or 3.13 to build .venv with (default: python3,
                 # python3.12 or python3.13, the first that fits).
    ESPNET_ROOT  # An existing ESPnet checkout to take the recipes and espnet2 from
                 # (default: the source distribution, unpacked into tools/espnet).

An active virtual or conda environment that has the packages is used as it is.
HELP
)

root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
tools="${root}/tools"
espnet="${tools}/espnet"
venv="${root}/.venv/bin"
espnet_version=$(sed -n 's/^espnet==//p' "${tools}/constraints.txt")
needed_gib=9   # .venv with the CUDA build of PyTorch, and pip's downloads
export PIP_DISABLE_PIP_VERSION_CHECK=1

die() {
    echo "tools/setup.sh: error: $*" >&2
    exit 1
}

if [ $# -ne 0 ]; then
    echo "${help_message}"
    [ "$1" = --help ] && exit 0
    die "it takes no arguments, but got '$*'"
fi

# Run a command with its output in setup.log; if it fails, say in one line what to do.
try() {
    local what=$1 logfile="${tools}/setup.log" hint
    shift
    "$@" > "${logfile}" 2>&1 && return
    if grep -qi "no space left on device\|disk quota exceeded" "${logfile}"; then
        hint="the disk is full; free ${needed_gib} GiB in ${root} and ${TMPDIR:-/tmp}"
    elif grep -qiE "connection (broken|refused|reset)|NewConnectionError|Max retries|\
name resolution|network is unreachable|timed out|No matching distribution" "${logfile}"; then
        hint="the package index could not be reached; check the network, the proxy"
        hint+=" and pip's index settings (log: ${logfile})"
    elif grep -qi "command '.*gcc.*' failed\|unable to execute '.*gcc'\|Python.h" "${logfile}"; then
        hint="a dependency of ESPnet has to be compiled; install a C compiler"
        hint+=" and Python's headers (Debian: gcc python3-dev)"
    fi
    die "${what}: ${hint:-see ${logfile}}, then run it again"
}

has_packages() {  # Does this Python have every dependency, at a version that fits?
    "$1" -c '
import sys, tomllib
from importlib.metadata import version
from packaging.requirements import Requirement
needed = map(Requirement, tomllib.load(sys.stdin.buffer)["project"]["dependencies"])
sys.exit(not all(version(r.name) in r.specifier for r in needed))
' < "${root}/pyproject.toml" > /dev/null 2>&1
}

find_python() {
    local candidate candidates=(python3 python3.12 python3.13)
    [ -z "${PYTHON:-}" ] || candidates=("${PYTHON}")
    for candidate in "${candidates[@]}"; do
        "${candidate}" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 12), (3, 13)))' \
            > /dev/null 2>&1 || continue
        echo "${candidate}"
        return
    done
    [ -z "${PYTHON:-}" ] || die "PYTHON=${PYTHON} is not a Python 3.12 or 3.13"
    die "no Python 3.12 or 3.13 found; install one, or name it: PYTHON=/path/to/python3.12"
}

install_venv() (
    local base free_gib
    cd "${root}"   # where pyenv reads .python-version
    base=$(find_python)
    free_gib=$(df -Pk . | awk 'NR == 2 { print int($4 / 2^20) }')
    [ -d .venv ] || [ "${free_gib}" -ge "${needed_gib}" ] \
        || die "the disk is nearly full; free ${needed_gib} GiB in ${root} (now: ${free_gib} GiB)"
    if ! "${venv}/python" -m pip --version > /dev/null 2>&1; then
        log "Making ${root}/.venv with $("${base}" --version)"
        rm -rf .venv
        try "python -m venv failed (Debian: install python3-venv)" "${base}" -m venv "${root}/.venv"
    fi
    log "Installing espnet ${espnet_version} and the rest (some minutes; log: tools/setup.log)"
    try "pip install failed" "${venv}/python" -m pip install \
        -c "${tools}/constraints.txt" -e "${root}[analysis,docs,export,test]"
)

# Make room for another ESPnet tree; only what this script has put there goes.
remove_unpacked() {
    [ -L "${espnet}" ] || [ -f "${espnet}/.unpacked" ] || [ ! -e "${espnet}" ] \
        || die "tools/espnet is not from this script: move it away, or set" \
            "ESPNET_ROOT=${espnet} to use it"
    rm -rf "${espnet}"
}

# ESPnet's wheel has no recipes: take them from the source distribution.
unpack_espnet() {
    local python=$1 partial="${espnet}.partial" archive=espnet-${espnet_version}
    local parts=("${archive}"/{LICENSE,version.txt,tools,egs2/{TEMPLATE,mini_an4}/asr1})
    if [ -n "${ESPNET_ROOT:-}" ]; then
        [ -f "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/asr.sh" ] || die \
            "ESPNET_ROOT=${ESPNET_ROOT} is not an ESPnet checkout: no egs2/TEMPLATE/asr1/asr.sh"
        [ "$(realpath "${ESPNET_ROOT}")" != "$(realpath -m "${espnet}")" ] || return 0
        remove_unpacked
        ln -s "$(realpath -s "${ESPNET_ROOT}")" "${espnet}"
        return
    fi
    [ -L "${espnet}" ] || [ ! -f "${espnet}/egs2/TEMPLATE/asr1/asr.sh" ] \
        || [ "$(cat "${espnet}/.unpacked" 2> /dev/null)" != "${parts[*]}" ] || return 0
    log "Downloading the source distribution of espnet ${espnet_version} (35 MB)"
    rm -rf "${partial}"
    mkdir -p "${partial}"
    try "pip download failed" "${python}" -m pip download --no-deps \
        --no-binary espnet "espnet==${espnet_version}" -d "${partial}"
    try "unpacking ${archive}.tar.gz failed" \
        tar -xzf "${partial}/${archive}.tar.gz" -C "${partial}" "${parts[@]}"
    echo "${parts[*]}" > "${partial}/${archive}/.unpacked"
    remove_unpacked
    mv "${partial}/${archive}" "${espnet}"
    rm -rf "${partial}"
}

# What ESPnet's path.sh sources: the chosen Python first on PATH, UTF-8 in any locale.
write_activate() {
    local python=$1
    {
        echo "# Made by tools/setup.sh"
        echo "export PYTHONUTF8=1"
        printf "export PATH=%q:\${PATH}\n" "$(dirname "${python}")"
        [ ! -L "${espnet}" ] \
            || printf "export PYTHONPATH=%q:\${PYTHONPATH:-}\n" "$(readlink "${espnet}")"
        [ "${python}" = "${venv}/python3" ] \
            || printf "export PYTHONPATH=%q:\${PYTHONPATH:-}\n" "${root}"
    } > "${tools}/activate_python.sh"
}

# Give each recipe what it lacks of ESPnet's TEMPLATE: links, and copies for users to edit.
prepare_recipes() {
    local recipe name an4=egs2/mini_an4/asr1   # its recordings come with ESPnet
    [ -e "${root}/egs2/TEMPLATE" ] || ln -sfT ../tools/espnet/egs2/TEMPLATE "${root}/egs2/TEMPLATE"
    for recipe in "${root}"/egs2/*/asr1/run.sh; do
        recipe=${recipe%/run.sh}
        for name in asr.sh path.sh scripts pyscripts steps utils; do
            [ -e "${recipe}/${name}" ] || ln -sfT "../../TEMPLATE/asr1/${name}" "${recipe}/${name}"
        done
        for name in cmd.sh db.sh conf/{fbank,pbs,pitch,queue,slurm}.conf; do
            [ ! -e "${recipe}/${name}" ] || continue
            cp "${root}/egs2/TEMPLATE/asr1/${name}" "${recipe}/${name}.$$.partial"
            mv "${recipe}/${name}.$$.partial" "${recipe}/${name}"
        done
    done
    [ ! -d "${root}/${an4}" ] || [ -e "${root}/${an4}/downloads.tar.gz" ] \
        || ln -sfT "../../../tools/espnet/${an4}/downloads.tar.gz" "${root}/${an4}/downloads.tar.gz"
}

active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
active=${active:+$(realpath -sm "${active}/bin/python3")}
[ "${active}" != "${venv}/python3" ] || active=

# What is installed follows from these: nothing to do while they stay the same.
state=$(cat "${tools}"/{setup.sh,constraints.txt} "${root}/pyproject.toml" | cksum)
state+=" active=${active} espnet_root=${ESPNET_ROOT:-}"
end_if_ready() {
    [ -f "${tools}/.setup_done" ] && [ "$(head -n 1 "${tools}/.setup_done")" = "${state}" ] \
        && [ -x "$(tail -n 1 "${tools}/.setup_done")" ] \
        && [ -f "${espnet}/egs2/TEMPLATE/asr1/asr.sh" ] || return 0
    prepare_recipes
    exit 0
}
end_if_ready
# Another set-up may be at work.
exec 8>> "${tools}/.setup_lock"
why=$(flock 8 2>&1) || log "WARNING: no lock in ${tools} (flock: ${why##*: }):" \
    "start no second set-up until this one has ended"
end_if_ready
rm -f "${tools}/.setup_done"

if [ -n "${active}" ] && has_packages "${active}"; then
    log "Using the active environment: ${active}"
    python="${active}"
else
    [ -z "${active}" ] \
        || log "The active environment lacks packages of pyproject.toml: using ${root}/.venv"
    install_venv
    python="${venv}/python3"
fi
unpack_espnet "${python}"
prepare_recipes
write_activate "${python}"
found=$(cat "${espnet}/version.txt" "${espnet}/espnet/version.txt" 2> /dev/null | head -n 1 || true)
[ "${found}" = "${espnet_version}" ] \
    || log "WARNING: ${espnet} is ESPnet ${found:-of unknown version}; tested is ${espnet_version}"
printf '%s\n' "${state}" "${python}" > "${tools}/.setup_done"
log "Ready: $("${python}" --version), espnet ${found}"
