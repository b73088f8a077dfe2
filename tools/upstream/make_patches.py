# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Make ESPnet's two patches out of this repository's files (see make_patches.sh)."""

import argparse
import ast
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

# File there: file here.
ENCODER_FILES = {
    **{
        f"espnet2/asr/{name}.py": f"espnet_reuse/asr/{name}.py"
        for name in (
            "encoder/reuse_encoder",
            *(f"encoder/{kind}_reuse_encoder" for kind in KINDS.values()),
            "layers/attention_map",
            "layers/attention_map_reuse",
        )
    },
    **{
        f"test/espnet2/asr/{name}.py": f"tests/espnet2/asr/{name}.py"
        for name in ("encoder/test_attention_map_reuse", "layers/test_attention_map")
    },
}
RECIPE_FILES = {
    **{
        f"egs2/{corpus}/asr1/conf/tuning/train_asr_conformer_reuse3.yaml": (
            f"egs2/{corpus}/asr1/conf/train_asr_conformer_reuse.yaml"
        )
        for corpus in ("librispeech_100", "librispeech")
    },
    **{
        str(path.relative_to(UPSTREAM / "files")): str(path.relative_to(ROOT))
        for path in sorted(UPSTREAM.glob("files/**/*.yaml"))
    },
}
# File there: the section of ours, and the text there that it stands before (the end
# of the file: None).
ENCODER_SECTIONS = {
    "doc/espnet2_tutorial.md": ("espnet2_tutorial.md", "## Streaming ASR\n")
}
RECIPE_SECTIONS = {
    "ci/test_integration_espnet2.sh": (
        "test_integration_espnet2.txt",
        '    finish_asr\nfi\n\nif [ "${task}" == "asr_transducer" ]',
    ),
    "egs2/librispeech_100/asr1/README.md": ("readme_librispeech_100.md", None),
    "egs2/librispeech/asr1/README.md": ("readme_librispeech.md", None),
}


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
    lines, additions, parents = source.splitlines(keepends=True), {}, set()
    tree = ast.parse(source)
    imported = {
        alias.name: node
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if node.module == f"espnet2.asr.encoder.{KINDS.get(alias.name)}_encoder"
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or ast.unparse(call.func) != "ClassChoices":
            continue
        for choice in (
            k
            for a in call.keywords
            if a.arg == "classes"
            for k in getattr(a.value, "keywords", [])
        ):
            parent = ast.unparse(choice.value)
            if parent not in imported:
                continue
            if not lines[choice.end_lineno - 1].endswith(f"={parent},\n"):
                fail(f"{choice.arg}={parent} of a task is not a line by itself")
            parents.add(parent)
            indent = " " * choice.col_offset
            reuse = parent.replace("Encoder", "ReuseEncoder")
            additions[choice.end_lineno] = f"{indent}{choice.arg}_reuse={reuse},\n"
    for parent in parents:
        module = f"espnet2.asr.encoder.{KINDS[parent]}_reuse_encoder"
        reuse = parent.replace("Encoder", "ReuseEncoder")
        line = imported[parent].end_lineno
        additions[line] = f"from {module} import {reuse}\n"
    for line in sorted(additions, reverse=True):
        lines.insert(line, additions[line])
    return "".join(lines), parents


def insert(text, section, before, path):
    """Insert a section before a text that is there once, or at the end."""
    if before is None:
        return text.rstrip("\n") + "\n" + section
    if text.count(before) != 1:
        fail(
            f"{path} has {text.count(before)} times, not once: {before.splitlines()[0]}"
        )
    return text.replace(before, section + before)


def make_files(tree, files, sections):
    """Return {path there: new text} of the files that a patch adds or changes."""
    made = {there: rewrite((ROOT / here).read_text()) for there, here in files.items()}
    for there in made:
        if (tree / there).exists():
            fail(f"{tree} has a {there} already")
    for there, (name, before) in sections.items():
        section = (UPSTREAM / "sections" / name).read_text()
        made[there] = insert((tree / there).read_text(), section, before, there)
    return made


def make_registrations(tree):
    """Return {path there: new text} of the tasks that offer a parent."""
    made = {}
    for folder in ("espnet2/tasks", "espnet3"):
        for path in sorted((tree / folder).rglob("*.py")):
            source = path.read_text()
            if "ClassChoices" not in source:
                continue
            there = str(path.relative_to(tree))
            text, parents = register(source)
            if there in TASKS and parents != set(KINDS):
                missing = ", ".join(sorted(set(KINDS) - parents))
                fail(f"{there} does not offer {missing}, as ESPnet {VERSION} does")
            if parents:
                made[there] = text
    if not set(TASKS) <= set(made):
        fail(f"{tree} has no choices of encoders in {' and '.join(TASKS)}")
    return made


def commit(repository, made, message):
    """Write files, format them as ESPnet's pre-commit does, and commit them."""
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


def write_patches(tree, patches, repository, output):
    """Commit the patches on what they change of ESPnet's tree, and write them.

    Args:
        tree: ESPnet's tree.
        patches: {name: {path there: new text}}.
        repository: Empty folder for a repository with the files that they change.
        output: Empty folder for the patches and the texts.
    """
    run("git", "init", "-q", cwd=repository)
    settings = ["setup.cfg", "pyproject.toml"]  # of isort and black
    for there in itertools.chain(settings, *patches.values()):
        if (tree / there).exists():
            (repository / there).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / there, repository / there)
    run("git", "add", "-A", cwd=repository)
    run("git", "commit", "-q", "-m", f"ESPnet {VERSION}", cwd=repository)
    for name, made in patches.items():
        text = shutil.copy(UPSTREAM / f"pr_{name}.md", output)
        commit(repository, made, message_of(Path(text).read_text()))
        rows = run("git", "diff", "--numstat", "HEAD~", cwd=repository).splitlines()
        changed = sum(int(n) for row in rows for n in row.split()[:2])
        print(f"{name}: {len(rows)} files, {changed} changed lines")
        if len(rows) > MAX_FILES or changed > MAX_LINES:
            fail(f"{name}: ESPnet takes {MAX_FILES} files and {MAX_LINES} lines")
    run("git", "format-patch", "-q", f"-{len(patches)}", "-o", output, cwd=repository)
    shutil.copy(UPSTREAM / "feature_request.md", output)


def main():
    """Make the patches and print their sizes."""
    parser = argparse.ArgumentParser(prog="make_patches.sh", description=__doc__)
    parser.add_argument("--espnet_root", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    tree, output = args.espnet_root, args.output_dir.absolute()

    encoders = make_files(tree, ENCODER_FILES, ENCODER_SECTIONS)
    encoders |= make_registrations(tree)
    recipes = make_files(tree, RECIPE_FILES, RECIPE_SECTIONS)
    for who in ("AUTHOR", "COMMITTER"):
        os.environ[f"GIT_{who}_NAME"], os.environ[f"GIT_{who}_EMAIL"] = AUTHOR
    os.environ["GIT_CONFIG_GLOBAL"] = os.devnull  # no signing, no hooks
    output.parent.mkdir(parents=True, exist_ok=True)
    # complete or not there at all
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".") as folder:
        repository, made = Path(folder, "repository"), Path(folder, "made")
        repository.mkdir()
        made.mkdir()
        write_patches(tree, {"encoder": encoders, "recipe": recipes}, repository, made)
        made.rename(output)


if __name__ == "__main__":
    main()
