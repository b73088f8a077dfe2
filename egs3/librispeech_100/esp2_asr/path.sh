# shellcheck shell=bash

. ../../../tools/activate_python.sh
