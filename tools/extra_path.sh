# shellcheck shell=bash
# Sourced by ESPnet's path.sh: the programs that ESPnet's own tools folder adds.
. "$(dirname "${BASH_SOURCE[0]}")"/espnet/tools/extra_path.sh
