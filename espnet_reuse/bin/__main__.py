# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Reuse attention maps in the encoders of ESPnet's speech recognition.

`espnet-reuse COMMAND --help` lists a command's options. Each command is also a module:
`python3 -m espnet_reuse.bin.COMMAND`.
"""

import ast
import importlib
import os
import pkgutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from espnet_reuse.bin.parser import PROGRAM, Parser

COMMANDS = ("compare", "convert", "export", "analyze", "benchmark", "transcribe")


def get_parser() -> Parser:
    """Return the parser of the first word; the command reads the others."""
    # read, not imported: what other commands need may not be here
    sources = (pkgutil.get_data("espnet_reuse.bin", f"{x}.py") for x in COMMANDS)
    firsts = (ast.get_docstring(ast.parse(x)).partition("\n")[0] for x in sources)
    helps = map("    {:<10}  {}".format, COMMANDS, firsts)
    parser = Parser(PROGRAM, "\n".join([f"{__doc__}\nCommands:", *helps]))
    parser.usage = "%(prog)s COMMAND [--option value ...]"
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    try:
        number = version("espnet-reuse")
    except PackageNotFoundError:  # the package is on PYTHONPATH
        number = "(not installed)"
    parser.add_argument("--version", action="version", version=f"%(prog)s {number}")
    return parser


def find_clone() -> Path | None:
    """Return the folder with the recipes that `compare` drives, None if there is none.

    It is ESPNET_REUSE_ROOT, the current folder, or where the package is imported from.
    """
    places = (os.environ.get("ESPNET_REUSE_ROOT", "."), ".", Path(__file__).parents[2])
    folders = (Path(place).absolute() for place in places)
    return next(
        (p for p in folders if (p / "egs2/mini_an4/asr1/run.sh").is_file()), None
    )


def main():
    """Run the command that the first word names."""
    name = get_parser().parse_args(sys.argv[1:2]).command
    sys.argv[:2] = [f"{PROGRAM} {name}"]  # what errors begin with
    if name == "compare" and (clone := find_clone()):
        os.execv(clone / "run.sh", [clone / "run.sh", *sys.argv[1:]])
    if name == "compare" and {"--help", "-h"}.isdisjoint(sys.argv):
        sys.exit(
            f"{sys.argv[0]}: error: there are no recipes here: run it in a clone of "
            "the repository, whose run.sh also sets up what it needs"
        )
    importlib.import_module(f"espnet_reuse.bin.{name}").main()


if __name__ == "__main__":
    main()
