# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""espnet_reuse.run runs ESPnet programs with the encoders registered."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import espnet_reuse  # noqa: F401 (registers the encoders)

ROOT = Path(__file__).parents[1]
RUNNER = [sys.executable, "-m", "espnet_reuse.run"]


def run(*command):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def run_script(tmp_path):
    """A function that runs a program of this text with arguments."""

    def run_it(text, *arguments):
        (tmp_path / "script.py").write_text(text)
        return run(*RUNNER, tmp_path / "script.py", *arguments)

    return run_it


def test_importing_the_package_imports_neither_torch_nor_espnet():
    code = "import sys, espnet_reuse; print({'torch', 'espnet2'} & set(sys.modules))"
    assert run(sys.executable, "-c", code).stdout == "set()\n"


def test_encoders_are_registered_whatever_the_order_of_imports():
    imports = ["import espnet_reuse", "import espnet2.tasks.asr as task"]
    check = "assert task.encoder_choices.get_class('conformer_reuse').__name__"
    started = [
        subprocess.Popen([sys.executable, "-c", "\n".join([*order, check])])
        for order in (imports, imports[::-1])
    ]
    assert [process.wait() for process in started] == [0, 0]


def test_that_flash_attn_is_not_installed_is_not_said_a_broken_one_is(tmp_path):
    imports = "import espnet_reuse, espnet2.asr.encoder.transformer_encoder"
    assert run(sys.executable, "-c", imports).stderr == ""
    (tmp_path / "flash_attn.py").write_text("import a_library_that_is_missing")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {imports}"
    assert "No module named 'a_library" in run(sys.executable, "-c", code).stderr


NAMES = ["conformer", "transformer", "branchformer", "e_branchformer"]


def test_the_entry_points_are_the_encoders_that_are_registered():
    from espnet2.tasks.asr import encoder_choices

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["entry-points"]["espnet2.encoders"]
    assert set(declared) == {f"{name}_reuse" for name in NAMES}
    for name, value in declared.items():
        entry_point = EntryPoint(name, value, "espnet2.encoders")
        assert entry_point.load() is encoder_choices.get_class(name)


def test_names_that_espnet_has_already_are_left_alone_and_said_once(caplog):
    from espnet2.tasks.asr import encoder_choices
    from espnet2.train.class_choices import ClassChoices

    parents = {name: encoder_choices.get_class(name) for name in NAMES}
    upstream = {
        f"{name}_reuse": type("ReuseEncoder", (parents[name],), {})
        for name in ("conformer", "branchformer")
    }
    for _ in range(2):
        choices = ClassChoices("encoder", {**parents, **upstream})
        assert choices.classes.items() >= upstream.items()
        assert {*choices.classes} == {*NAMES, *(f"{name}_reuse" for name in NAMES)}
    assert [record.message for record in caplog.records] == [
        "This ESPnet has its own reuse encoders: espnet_reuse does not replace "
        "encoders that have the same name"
    ]


def test_asr_train_shows_the_arguments_of_the_parent_and_ours():
    result = run(
        *(*RUNNER, "-m", "espnet2.bin.asr_train", "--print_config"),
        *("--encoder", "conformer_reuse", "--encoder_conf", "reuse_group_size=[1,2]"),
    )
    config = result.stdout[result.stdout.index("encoder: conformer_reuse") :]
    for line in ("cnn_module_kernel: 31", "reuse_dropout: per_layer", "- 1\n    - 2"):
        assert line in config, result.stderr


SPAWNING_SCRIPT = """
import multiprocessing
import sys

import pytest

def ask(argument):
    from espnet2.tasks.asr import encoder_choices
    names = ["conformer", "transformer", "branchformer", "e_branchformer"]
    encoders = [encoder_choices.get_class(f"{name}_reuse") for name in names]
    return [encoder.__name__ for encoder in encoders], argument, sys.argv[1]

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(ask, ("an argument",)))
"""


def test_spawned_workers_have_the_encoders_and_the_programs_functions(run_script):
    result = run_script(SPAWNING_SCRIPT, "an option")
    kinds = ["Conformer", "Transformer", "Branchformer", "EBranchformer"]
    encoders = [f"{kind}ReuseEncoder" for kind in kinds]
    expected = f"{(encoders, 'an argument', 'an option')}\n"
    assert result.stdout == expected, result.stderr


def test_a_script_sees_its_own_folder_name_and_arguments(run_script, tmp_path):
    (tmp_path / "neighbour.py").write_text("WORD = 'found'")
    result = run_script(
        "import sys, neighbour\n"
        "print(neighbour.WORD, sys.argv, __name__, __file__)\n"
        "sys.exit(3)",
        *("--x", "1"),
    )
    script = tmp_path / "script.py"
    argv = [str(script), "--x", "1"]
    assert result.stdout == f"found {argv} __main__ {script}\n"
    assert result.returncode == 3


def test_a_rank_that_lightning_starts_runs_the_same_program(run_script, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for options in (["--stages", "train"], []):
        result = run_script(
            "import os, subprocess, sys\n"
            "print(sys.argv[1:], flush=True)\n"
            "spec = sys.modules['__main__'].__spec__.name\n"
            "if 'LOCAL_RANK' not in os.environ:\n"
            "    os.environ['LOCAL_RANK'] = '1'\n"
            "    subprocess.run([sys.executable, '-m', spec, *sys.argv[1:]])\n",
            *options,
        )
        assert result.stdout == f"{options}\n" * 2, result.stderr


def test_a_script_may_use_any_name(run_script):
    result = run_script("names = dir()\nsys = logging = resource = None\nprint(names)")
    assert (result.returncode, result.stderr) == (0, "")
    assert "espnet_reuse" not in result.stdout  # it starts with a clean namespace


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-m", "no.such.module"], "no module named no.such"),
        (["no_such.py"], "cannot read no_such.py: No such"),
        ([], "Usage"),
    ],
)
def test_a_program_that_is_not_there_is_named(arguments, message):
    result = run(*RUNNER, *arguments)
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def assert_one_line(result, message):
    assert result.returncode == 1 and "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith(f"espnet_reuse: error: {message}")


def test_a_wrong_group_ends_asr_train_with_one_line(tmp_path):
    (tmp_path / "tokens.txt").write_text("<blank>\n<unk>\na\n<sos/eos>\n")
    result = run(
        *(*RUNNER, "-m", "espnet2.bin.asr_train", "--dry_run", "true"),
        *("--output_dir", tmp_path, "--token_list", tmp_path / "tokens.txt"),
        *("--encoder", "conformer_reuse", "--encoder_conf", "reuse_group_size=0"),
    )
    assert_one_line(result, "reuse_group_size: 0 must be a positive")


LOADING_SCRIPT = """
from espnet_reuse.asr.encoder.transformer_reuse_encoder import TransformerReuseEncoder

two, three = (
    TransformerReuseEncoder(20, num_blocks=4, reuse_group_size=n) for n in (2, 3)
)
two.load_state_dict(three.state_dict(), strict=False)
"""


@pytest.mark.parametrize(
    "code, message",
    [
        (LOADING_SCRIPT, "the checkpoint's encoders.2.self_attn has no query proj"),
        ("from espnet_reuse.errors import UserError; raise UserError('x')", "x"),
    ],
)
def test_what_a_user_can_mend_ends_the_program_with_one_line(run_script, code, message):
    assert_one_line(run_script(code), message)


def test_another_error_of_a_program_keeps_its_traceback(run_script):
    result = run_script("raise RuntimeError('a bug')")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1] == "RuntimeError: a bug"
