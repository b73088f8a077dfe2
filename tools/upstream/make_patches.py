# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Make ESPnet's patches out of this repository's files, for make_patches.sh.

Usage: make_patches.py ESPNET_ROOT OUTPUT_DIR
"""

import functools
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

UPSTREAM = Path(__file__).resolve().parent
ROOT = UPSTREAM.parents[1]
CHANGES = UPSTREAM / "changes"
VERSION = "202611"  # the ESPnet that the patches are for
MAX_FILES, MAX_LINES = 30, 1499  # ESPnet's CONTRIBUTING.md, section 2

KINDS = {
    "ConformerEncoder": "conformer",
    "TransformerEncoder": "transformer",
    "BranchformerEncoder": "branchformer",
    "EBranchformerEncoder": "e_branchformer",
}
# Tasks that have to offer every parent; others are searched for them.
TASKS = ("espnet2/tasks/asr.py", "espnet3/systems/esp2_asr/task.py")
PREFIXES = {"tools/upstream/files/": "", "espnet_reuse/": "espnet2/", "tests/": "test/"}


def files_there(*patterns):
    """Return {file there: file here} of our files, by patterns."""
    files = {}
    for path in itertools.chain.from_iterable(map(ROOT.glob, patterns)):
        here = there = str(path.relative_to(ROOT))
        for ours, theirs in PREFIXES.items():
            there = re.sub(f"^{ours}", theirs, there)
        files[there] = here
    return files


ENCODER_FILES = files_there(
    "espnet_reuse/asr/encoder/*_encoder.py",
    "espnet_reuse/asr/layers/attention_map.py",
    "espnet_reuse/asr/layers/attention_map_reuse.py",
    "tests/espnet2/asr/encoder/test_attention_map_reuse.py",
    "tests/espnet2/asr/layers/test_attention_map.py",
)
RECIPE_FILES = files_there("tools/upstream/files/egs*/**/*.yaml") | {
    f"egs2/{corpus}/asr1/conf/tuning/train_asr_conformer_reuse3.yaml": (
        f"egs2/{corpus}/asr1/conf/train_asr_conformer_reuse.yaml"
    )
    for corpus in ("librispeech_100", "librispeech")
}
ENTRY_POINTS_FILES = files_there("tools/upstream/files/test/**/*.py")


def fail(message):
    """End with one line."""
    sys.exit(f"make_patches.sh: error: {message}")


def run(folder, *command):
    """Run a program in a folder and return what it prints, or fail with it."""
    result = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")
    if result.returncode:
        words = " ".join(command[:3])
        fail(f"{words}: {(result.stderr + result.stdout).strip()}")
    return result.stdout


def rewrite(source):
    """Rewrite the imports of one of our modules."""
    source = re.sub(r"\bespnet_reuse\.asr\b", "espnet2.asr", source)
    source = source.replace("espnet_reuse::", "espnet2::")  # names of operators
    if "espnet_reuse" in source:
        fail("a file that goes upstream names espnet_reuse outside of espnet_reuse.asr")
    return source


def register(source):
    """Offer an encoder with reuse after each parent that a task's source offers.

    Returns:
        The source with imports and entries added, and the names of the parents.
    """
    parents = set()
    for parent, kind in KINDS.items():
        reuse = parent.replace("Encoder", "ReuseEncoder")
        line = f"from espnet2.asr.encoder.{kind}_encoder import {parent}\n"
        line_reuse = f"from espnet2.asr.encoder.{kind}_reuse_encoder import {reuse}\n"
        entry = re.compile(rf"^( +\w+)={parent},\n", re.MULTILINE)
        if line in source and entry.search(source):
            parents.add(parent)
            source = entry.sub(rf"\g<0>\g<1>_reuse={reuse},\n", source)
            source = source.replace(line, line + line_reuse)
    return source, parents


def make_files(tree, files):
    """Return {path there: text} of the files that a patch adds."""
    for there in files:
        if (tree / there).exists():
            fail(f"{tree} has a {there} already")
    return {
        there: rewrite((ROOT / here).read_text("utf-8"))
        for there, here in files.items()
    }


def make_registrations(tree):
    """Return {path there: new text} of the tasks that offer a parent."""
    made, offered = {}, {}
    for folder in ("espnet2/tasks", "espnet3"):
        for path in sorted((tree / folder).rglob("*.py")):
            there = str(path.relative_to(tree))
            text, offered[there] = register(path.read_text("utf-8"))
            if offered[there]:
                made[there] = text
    for there in TASKS:
        missing = set(KINDS) - offered.get(there, set())
        if missing:
            missing = ", ".join(sorted(missing))
            fail(f"{there} does not offer {missing}, as ESPnet {VERSION} does")
    return made


def message_of(text):
    """Return the commit message of a pull request's text: title and first section."""
    title, body = text.split("\n", 1)
    return title.removeprefix("# ") + "\n\n" + body.split("\n## ")[1].split("\n", 1)[1]


def write_patches(tree, patches, repository, output):
    """Commit the patches on what they change of ESPnet's tree, and write them.

    Args:
        tree: ESPnet's tree.
        patches: {name: {path there: new text}}; `changes/NAME.diff` changes more files.
        repository: Empty folder for a repository with the files that they change.
        output: Empty folder for the patches and the texts.
    """
    git = functools.partial(run, repository, "git")
    git("init", "-q")
    needed = ["setup.cfg", "pyproject.toml"]  # of isort and black
    for name, made in patches.items():
        diff = (CHANGES / f"{name}.diff").read_text("utf-8")
        needed += [*made, *re.findall(r"^\+\+\+ b/(.*)", diff, re.MULTILINE)]
    for there in needed:
        if (tree / there).exists():
            (repository / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / there, repository / there)
    git("add", "-A")
    git("commit", "-q", "-m", f"ESPnet {VERSION}")
    git("tag", "pristine")
    for number, (name, made) in enumerate(patches.items(), 1):
        if name == "entry_points":  # for an ESPnet without the other two
            git("checkout", "-q", "pristine")
        git("apply", str(CHANGES / f"{name}.diff"))
        for there, text in made.items():
            (repository / there).parent.mkdir(parents=True, exist_ok=True)
            (repository / there).write_text(text, "utf-8")
        python_files = [there for there in made if there.endswith(".py")]
        if python_files:  # as ESPnet's pre-commit formats them
            python = functools.partial(run, repository, sys.executable, "-m")
            # not all of ESPnet's modules are there for isort to see that they are own
            python("isort", "-q", "-p", "espnet2", "-p", "espnet3", *python_files)
            python("black", "-q", *python_files)
        git("add", "-A")
        text = shutil.copy(UPSTREAM / f"pr_{name}.md", output)
        git("commit", "-q", "-m", message_of(Path(text).read_text("utf-8")))
        rows = git("diff", "--numstat", "HEAD~").splitlines()
        changed = sum(int(n) for row in rows for n in row.split()[:2])
        print(f"{name}: {len(rows)} files, {changed} changed lines")
        if len(rows) > MAX_FILES or changed > MAX_LINES:
            fail(f"{name}: ESPnet takes {MAX_FILES} files and {MAX_LINES} lines")
        git("format-patch", "-q", "-1", f"--start-number={number}", "-o", str(output))
    shutil.copy(UPSTREAM / "feature_request.md", output)


def main():
    """Make the patches and print their sizes."""
    tree, output = map(Path, sys.argv[1:])
    patches = {
        "encoder": make_files(tree, ENCODER_FILES) | make_registrations(tree),
        "recipe": make_files(tree, RECIPE_FILES),
        "entry_points": make_files(tree, ENTRY_POINTS_FILES),
    }
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    # complete or not there at all
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".") as folder:
        repository, made = Path(folder, "repository"), Path(folder, "made")
        repository.mkdir()
        made.mkdir()
        write_patches(tree, patches, repository, made)
        made.rename(output)


if __name__ == "__main__":
    main()
