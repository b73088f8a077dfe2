# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make ESPnet's patches out of this repository's files (see make_patches.sh)."""

import argparse
import itertools
import os
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
AUTHOR = ("The espnet-reuse authors", "authors@espnet-reuse.invalid")

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


def run(*command, **kwargs):
    """Run a program and return what it prints; say what it says if it fails."""
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, **kwargs
    )
    if result.returncode:
        words = " ".join(map(str, command[:3]))
        fail(f"{words}: {(result.stderr + result.stdout).strip()}")
    return result.stdout


def rewrite(source):
    """Rewrite the imports of one of our modules."""
    source = re.sub(r"\bespnet_reuse\.asr\b", "espnet2.asr", source)
    if "espnet_reuse" in source:
        fail("a file that goes upstream names espnet_reuse outside of espnet_reuse.asr")
    return source


def register(source):
    """Offer an encoder with reuse after each parent that a task offers.

    Args:
        source: Source of a task's module.

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
    return {there: rewrite((ROOT / here).read_text()) for there, here in files.items()}


def make_registrations(tree):
    """Return {path there: new text} of the tasks that offer a parent."""
    made, offered = {}, {}
    for folder in ("espnet2/tasks", "espnet3"):
        for path in sorted((tree / folder).rglob("*.py")):
            there = str(path.relative_to(tree))
            text, offered[there] = register(path.read_text())
            if offered[there]:
                made[there] = text
    for there in TASKS:
        missing = set(KINDS) - offered.get(there, set())
        if missing:
            missing = ", ".join(sorted(missing))
            fail(f"{there} does not offer {missing}, as ESPnet {VERSION} does")
    return made


def commit(repository, made, diff, message):
    """Commit changed and new files, formatted as ESPnet's pre-commit does."""
    run("git", "apply", diff, cwd=repository)
    for there, text in made.items():
        (repository / there).parent.mkdir(parents=True, exist_ok=True)
        (repository / there).write_text(text)
    python_files = [there for there in made if there.endswith(".py")]
    if python_files:
        # not all of ESPnet's modules are there for isort to see that they are its own
        own = ("-p", "espnet2", "-p", "espnet3")
        run(sys.executable, "-m", "isort", "-q", *own, *python_files, cwd=repository)
        run(sys.executable, "-m", "black", "-q", *python_files, cwd=repository)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-q", "-m", message, cwd=repository)


def message_of(text):
    """Return the commit message of a pull request's text: title and first section."""
    title, body = text.split("\n", 1)
    return title.removeprefix("# ") + "\n\n" + body.split("\n## ")[1].split("\n", 1)[1]


def write_patches(tree, alternatives, repository, output):
    """Commit the patches on what they change of ESPnet's tree, and write them.

    Args:
        tree: ESPnet's tree.
        alternatives: Lists of patches, each list for that tree: {name: {path there: new
            text}}. `changes/NAME.diff` changes further files.
        repository: Empty folder for a repository with the files that they change.
        output: Empty folder for the patches and the texts.
    """
    run("git", "init", "-q", cwd=repository)
    needed = ["setup.cfg", "pyproject.toml"]  # of isort and black
    for name, made in itertools.chain.from_iterable(map(dict.items, alternatives)):
        diff = (CHANGES / f"{name}.diff").read_text()
        needed += [*made, *re.findall(r"^\+\+\+ b/(.*)", diff, re.MULTILINE)]
    for there in needed:
        if (tree / there).exists():
            (repository / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / there, repository / there)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-q", "-m", f"ESPnet {VERSION}", cwd=repository)
    run("git", "tag", "pristine", cwd=repository)
    number = 1
    for patches in alternatives:
        run("git", "checkout", "-q", "pristine", cwd=repository)
        for name, made in patches.items():
            text = shutil.copy(UPSTREAM / f"pr_{name}.md", output)
            message = message_of(Path(text).read_text())
            commit(repository, made, CHANGES / f"{name}.diff", message)
            rows = run("git", "diff", "--numstat", "HEAD~", cwd=repository).splitlines()
            changed = sum(int(n) for row in rows for n in row.split()[:2])
            print(f"{name}: {len(rows)} files, {changed} changed lines")
            if len(rows) > MAX_FILES or changed > MAX_LINES:
                fail(f"{name}: ESPnet takes {MAX_FILES} files and {MAX_LINES} lines")
        start = ("--start-number", number, "pristine")
        run("git", "format-patch", "-q", "-o", output, *start, cwd=repository)
        number += len(patches)
    shutil.copy(UPSTREAM / "feature_request.md", output)


def main():
    """Make the patches and print their sizes."""
    parser = argparse.ArgumentParser(prog="make_patches.sh", description=__doc__)
    parser.add_argument("--espnet_root", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    tree, output = args.espnet_root, args.output_dir.absolute()

    encoder = make_files(tree, ENCODER_FILES) | make_registrations(tree)
    recipe = make_files(tree, RECIPE_FILES)
    entry_points = make_files(tree, ENTRY_POINTS_FILES)
    alternatives = [
        {"encoder": encoder, "recipe": recipe},
        {"entry_points": entry_points},
    ]
    for who in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{who}_NAME"], os.environ[f"GIT_{who}_EMAIL"] = AUTHOR
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull  # no signing, no hooks
    output.parent.mkdir(parents=True, exist_ok=True)
    # complete or not there at all
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".") as folder:
        repository, made = Path(folder, "repository"), Path(folder, "made")
        repository.mkdir()
        made.mkdir()
        write_patches(tree, alternatives, repository, made)
        made.rename(output)


if __name__ == "__main__":
    main()
