# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Run an ESPnet program with the reuse encoders registered, as `coverage run` does.

Usage:
    python -m espnet_reuse.run -m espnet2.bin.asr_train ...
    python -m espnet_reuse.run path/script.py ...

Recipes pass it on: `./asr.sh --python "python3 -m espnet_reuse.run"`.
"""

import contextlib
import importlib.util
import logging
import os
import resource
import runpy
import sys
import types
from pathlib import Path

import espnet_reuse  # noqa: F401 (registers the encoders)
from espnet_reuse.errors import UserError

PROGRAM = "ESPNET_REUSE_PROGRAM"  # tells spawned workers which file runs
# The same programs, which also take an inference config with `search: best_path`.
EXTENDED = {"espnet2.bin.asr_inference": "espnet_reuse.bin.asr_inference_ctc"}


def _run_as_main(argv):
    """Run `-m module` or a script as this process's `__main__` module.

    Multi-GPU training starts its workers with multiprocessing's *spawn*. A worker
    imports the module that `sys.modules["__main__"].__spec__` names. As the program's
    main module keeps the spec of this one, that is `espnet_reuse.run`, and the workers
    find the encoders registered (see `__mp_main__` below).
    """
    if argv[0] == "-m":
        _, name, *argv = argv
        name, spec = EXTENDED.get(name, name), None
        with contextlib.suppress(ModuleNotFoundError):
            found = importlib.util.find_spec(name)
            is_package = getattr(found, "submodule_search_locations", None) is not None
            spec = importlib.util.find_spec(f"{name}.__main__") if is_package else found
        if spec is None:
            sys.exit(f"espnet_reuse.run: error: no module named {name}")
        path, code = spec.origin, spec.loader.get_code(spec.name)
    else:
        path, *argv = argv
        try:
            code = compile(Path(path).read_bytes(), path, "exec")
        except OSError as e:
            sys.exit(f"espnet_reuse.run: error: cannot read {path}: {e.strerror}")
        sys.path[0] = os.path.dirname(os.path.abspath(path))
    sys.argv = [path, *argv]
    os.environ[PROGRAM] = path
    main = types.ModuleType("__main__")
    main.__spec__ = __spec__
    main.__file__ = path
    sys.modules["__main__"] = main
    try:
        exec(code, vars(main))
    except (ValueError, RuntimeError) as e:
        problem = _find_problem(e)
        if problem is None:
            raise
        sys.exit(f"espnet_reuse: error: {problem}")
    # shown where the program logs (asr_train does); ESPnet reports a GPU's itself
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    logging.info(f"Peak memory: {peak} MB")


def _find_problem(error):
    """Return the line of an error that its user can mend, None for other errors."""
    # by its name, since importing the module of ReuseConfigError takes seconds
    if isinstance(error, UserError) or type(error).__name__ == "ReuseConfigError":
        return error
    # PyTorch joins what its modules have to say of a checkpoint
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line.startswith("the checkpoint's ")), None)


if __name__ == "__main__":
    program = os.environ.get(PROGRAM) if "LOCAL_RANK" in os.environ else None
    if program and sys.argv[1:2] not in (["-m"], [program]):
        # Lightning starts its other ranks with the program's arguments alone
        sys.argv.insert(1, program)
    if len(sys.argv) < 2 or sys.argv[1:] == ["-m"] or sys.argv[1] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2)
    _run_as_main(sys.argv[1:])
elif __name__ == "__mp_main__":
    # A spawned worker: bring the program's definitions back, as Python would.
    globals().update(runpy.run_path(os.environ[PROGRAM], run_name="__mp_main__"))
