# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The error that a user can mend, and how commands report it."""

import contextlib
import sys


class UserError(ValueError):
    """Something that the user can mend.

    The message says what is wrong and what would be right, a line for each problem. A
    library function names no options of a command line: the command puts them in front.
    """


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, or its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def reported_errors(
    program: str, interrupted: str = "nothing is written", extra: str = ""
):
    """End the program with a line for each problem, instead of a traceback.

    After Ctrl-C the line says `interrupted`, the state that the program leaves. `extra`
    names the optional dependencies of this package that the program needs.

    Raises:
        SystemExit: With status 1, or 130 after Ctrl-C.
    """
    try:
        yield
        return
    except KeyboardInterrupt:
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)
    except ModuleNotFoundError as e:
        if not extra:
            raise
        message = f"no {e.name} here: pip install 'espnet-reuse[{extra}]'"
    except UserError as e:
        message = str(e)
    except UnicodeEncodeError as e:  # in a text to write or print, or a file's name
        part = e.object[e.start : e.end]
        message = f"{part!r} cannot be written in {e.encoding}: export PYTHONUTF8=1"
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        message = where + (e.strerror or one_line(e))
    for line in message.splitlines():
        print(f"{program}: error: {line}", file=sys.stderr)
    sys.exit(1)
