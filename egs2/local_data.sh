# shellcheck shell=bash
# What each recipe's local/data.sh begins with. It makes functions and no variables, for
# ESPnet's parse_options.sh takes every variable for an option.
set -euo pipefail

log() {
    local fname=${BASH_SOURCE[1]##*/}
    echo -e "$(date '+%Y-%m-%dT%H:%M:%S') (${fname}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}

refuse() {
    log "Error: $*"
    exit 2
}

of_conf() {  # the value that conf/asr.conf gives an option
    # shellcheck source=/dev/null
    (. conf/asr.conf && echo "${!1}")
}

in_stages() {  # whether a stage is among those to run
    # shellcheck disable=SC2154
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]
}

begin() {  # takes what parse_options.sh has left of the arguments
    [ $# -eq 0 ] || refuse "No positional arguments are required."
    . ./path.sh
    trap '[ $? -ne 0 ] || log "Successfully finished. [elapsed=${SECONDS}s]"' EXIT
}

log "$0 $*"
