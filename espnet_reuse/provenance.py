# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What a run was: when, where, and by which versions."""

import contextlib
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parent
CPU_INFO = Path("/proc/cpuinfo")  # on Linux only


def cpu_model() -> str:
    """Return the CPU's name, or its architecture where the system tells none."""
    with contextlib.suppress(OSError):
        for line in CPU_INFO.read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe_run(threads: int, command: str) -> dict:
    """Return when, where, of which commit and with which versions a command runs.

    Args:
        threads: CPU threads within an operator.
        command: The command line.
    """

    def git(*args):
        how = {"cwd": PACKAGE, "capture_output": True, "encoding": "utf-8"}
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(["git", *args], **how, check=True).stdout.strip()

    def version_of(name):
        with contextlib.suppress(PackageNotFoundError):
            return version(name)
        return "not installed"

    commit = "unknown"
    # the environment may lie in the folder of another repository
    if git("ls-files", "--error-unmatch", __file__):
        commit = git("rev-parse", "HEAD")
        commit += "-dirty" if git("status", "--porcelain", "--", PACKAGE) else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "commit": commit,
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "ram_gb": round(memory / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "espnet": version_of("espnet"),
        "espnet_reuse": version_of("espnet-reuse"),
        "ESPNET_REUSE_IMPL": os.environ.get("ESPNET_REUSE_IMPL", "fast"),
    }
