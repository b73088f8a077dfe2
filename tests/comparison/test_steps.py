# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The plan of a comparison: what is stale after which change. Nothing is trained."""

import glob
import io
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from espnet_reuse.bin.compare import read_options
from espnet_reuse.comparison import driver
from espnet_reuse.comparison.actions import Actions
from espnet_reuse.comparison.cells import Comparison
from espnet_reuse.comparison.display import Display
from espnet_reuse.comparison.plan import explain
from espnet_reuse.comparison.recipe import Recipe
from espnet_reuse.comparison.runner import Runner
from espnet_reuse.comparison.steps import Steps
from espnet_reuse.errors import UserError
from espnet_reuse.files import write_json

ROOT = Path(__file__).resolve().parents[2]
MADE_BY_RUNS = shutil.ignore_patterns("data", "downloads", "dump", "exp")
SETS = ("train", "dev", "test_a", "test_b")
# of other configs, they are others
CHECKS = {"check of the configs", "check of tokens against frames"}
DATA = {"data preparation", "formatting of the data"}
TOKENS = {"tokens and statistics"}
MODELS = ("baseline", "reuse3", "reuse3_warm")


def of(*models, sets=("test_a", "test_b")):
    """Return the names of what goes on from the trainings of models."""
    return {
        "comparison",
        *(f"scoring {m}" for m in models),
        *(f"decoding {m}, {s}" for m in models for s in sets),
        *(f"decoding {m}, {s}, best path" for m in models for s in sets),
        *(f"analysis of {m}" for m in models if "test_b" in sets),
    }


ANALYSES = {f"analysis of {m}" for m in MODELS}
BEST_PATHS = {name for name in of(*MODELS) if name.endswith(", best path")}


def trained(*models):
    return {f"training {m}" for m in models} | of(*models)


ALL_MODELS = trained(*MODELS)


@pytest.fixture
def root(tmp_path):
    """A repository with the custom recipe, a corpus and the data that it became."""
    for name in ("tools", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "egs2").mkdir()
    for name in ("TEMPLATE", "local_data.sh"):
        (tmp_path / "egs2" / name).symlink_to(ROOT / "egs2" / name)
    for name in ("custom", "mini_an4"):
        folder = f"egs2/{name}"
        shutil.copytree(
            ROOT / folder, tmp_path / folder, symlinks=True, ignore=MADE_BY_RUNS
        )
    recipe = tmp_path / "egs2/custom/asr1"
    for name in SETS:
        for folder in (tmp_path / "corpus" / name, recipe / "dump/raw" / name):
            folder.mkdir(parents=True)
            for file in ("wav.scp", "text", "utt2num_samples"):
                (folder / file).write_text(f"{name}-1 something\n")
    made = ("data/token_list/char/tokens.txt", "exp/asr_stats/x", "data/train/text")
    for path in made:
        (recipe / path).parent.mkdir(parents=True)
        (recipe / path).touch()
    return tmp_path


def plan(root, *argv):
    argv = [
        *("--corpus", "custom", "--data", f"{root}/corpus"),
        *("--models", " ".join(MODELS), "--test_sets", "test_a test_b"),
        *argv,
    ]
    options, others = read_options(argv)
    recipe = Recipe(root, options.corpus, others)
    comparison = Comparison(recipe, options, "./run.sh")
    return Steps(comparison, Actions(comparison, None))


@pytest.fixture
def finished(root):
    """The repository after a run: every step has its record."""
    steps = plan(root)
    for step in steps.all:
        step.write_record(done=True)
        if step.resumed:
            step.resumed.touch()
        for path in step.made:
            if not glob.glob(path):
                Path(path.replace("*", "valid.acc", 1).replace("*", "")).touch()
    return root


def recipe_of(root):
    return root / "egs2/custom/asr1"


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def open_steps(root, *argv):
    return {s.name for s in plan(root, *argv).all if not s.is_done()}


def test_before_a_run_everything_is_to_do_and_after_it_nothing(root):
    assert {s.state() for s in plan(root).all if not s.needs} == {("to do", "")}


@pytest.mark.parametrize(
    "argv, stale",
    [
        pytest.param((), set(), id="nothing"),
        pytest.param(("--nj", "9", "--jobs", "3"), set(), id="jobs"),
        pytest.param(("--ngpu", "0", "--num_nodes", "2"), set(), id="GPUs and nodes"),
        pytest.param(("--python", "coverage run"), set(), id="the interpreter"),
        pytest.param(("--stage", "4"), set(), id="stages"),
        pytest.param(("--fs", "8k"), DATA | TOKENS | ALL_MODELS, id="sampling rate"),
        pytest.param(("--nbpe", "40"), TOKENS | ALL_MODELS, id="tokens"),
        pytest.param(("--feats_normalize", "none"), ALL_MODELS, id="normalization"),
        pytest.param(
            ("--batch_size", "4"),
            of(*MODELS) - ANALYSES,
            id="batches in decoding",
        ),
        pytest.param(
            ("--inference_args", "--beam_size 2"),
            of(*MODELS) - ANALYSES - BEST_PATHS,
            id="the search",
        ),
        pytest.param(
            ("--analysis_args", "--num_utts 3"),
            ANALYSES,
            id="analysis",
        ),
        pytest.param(("--models", "baseline reuse3"), {"comparison"}, id="models"),
        pytest.param(
            ("--seeds", "1"),
            {
                "comparison",
                *(
                    f"{step} {m}, seed 1" + rest
                    for m in MODELS
                    for step, rest in (
                        ("training", ""),
                        ("decoding", ", test_a"),
                        ("decoding", ", test_b"),
                        ("decoding", ", test_a, best path"),
                        ("decoding", ", test_b, best path"),
                        ("scoring", ""),
                        ("analysis of", ""),
                    )
                ),
            },
            id="seeds",
        ),
        pytest.param(
            ("--test_sets", "test_a"),
            DATA
            | {"comparison"}
            | {f"{step} {m}" for m in MODELS for step in ("scoring", "analysis of")},
            id="fewer test sets",
        ),
    ],
)
def test_an_option_makes_stale_what_depends_on_it(finished, argv, stale):
    assert open_steps(finished, *argv) - CHECKS == stale


def edit_config(name, **changes):
    def edit(root):
        path = recipe_of(root) / "conf" / name
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))

    return edit


def append(path, text):
    return lambda root: (root / path).open("a").write(text)


def remove(path):
    return lambda root: shutil.rmtree(recipe_of(root) / path)


RECIPE = "egs2/custom/asr1"


@pytest.mark.parametrize(
    "edit, stale",
    [
        pytest.param(
            append(f"{RECIPE}/conf/train_asr_conformer.yaml", "# a comment\n"),
            set(),
            id="a comment in a config",
        ),
        pytest.param(
            append(f"{RECIPE}/local/data.sh", "    # a comment\n\n"),
            set(),
            id="a comment in a script",
        ),
        pytest.param(
            append(f"{RECIPE}/local/data.sh", "rm -f data/x\n"), DATA, id="a script"
        ),
        pytest.param(
            append(f"{RECIPE}/db.sh", "MYCORPUS=/elsewhere\n"), DATA, id="db.sh"
        ),
        pytest.param(
            append("corpus/train/text", "train-2 more\n"), DATA, id="the corpus"
        ),
        pytest.param(
            append(f"{RECIPE}/dump/raw/train/text", "train-2 more\n"),
            TOKENS | ALL_MODELS,
            id="what is trained on",
        ),
        pytest.param(
            lambda root: shutil.copytree(
                recipe_of(root) / "dump/raw/train",
                recipe_of(root) / "dump/raw/train_sp",
            ),
            set(),
            id="a perturbed set that an earlier run has left",
        ),
        pytest.param(
            append(f"{RECIPE}/dump/raw/test_a/text", "test_a-2 more\n"),
            of(*MODELS, sets=("test_a",)),
            id="a test set",
        ),
        pytest.param(
            edit_config("train_asr_conformer.yaml", seed=4711),
            ALL_MODELS,
            id="the config of all models",
        ),
        pytest.param(
            edit_config("decode_asr.yaml", beam_size=3),
            of(*MODELS) - ANALYSES - BEST_PATHS,
            id="the decoding",
        ),
        pytest.param(
            edit_config("decode_asr_ctc_best_path.yaml", ctm=True),
            of(*MODELS)
            & {"comparison", *BEST_PATHS, *map("scoring {}".format, MODELS)},
            id="best path",
        ),
        pytest.param(
            remove("exp/asr_train_asr_conformer_reuse3"),
            trained("reuse3"),
            id="a model that is gone",
        ),
        pytest.param(
            remove("exp/asr_train_asr_conformer"),
            trained("baseline", "reuse3_warm"),
            id="the model that others start from",
        ),
        pytest.param(
            remove("exp/asr_train_asr_conformer/decode_asr/test_b"),
            {"comparison", "scoring baseline", "decoding baseline, test_b"},
            id="a decoding that is gone",
        ),
        pytest.param(remove("data/token_list"), TOKENS | ALL_MODELS, id="tokens gone"),
        pytest.param(
            remove("dump"),
            DATA - {"data preparation"} | TOKENS | ALL_MODELS,
            id="dump/raw gone",
        ),
    ],
)
def test_an_edit_makes_stale_what_depends_on_it(finished, edit, stale):
    edit(finished)
    assert open_steps(finished) - CHECKS == stale


def test_an_option_that_a_future_asr_sh_brings_makes_all_stale(finished):
    steps = plan(finished)
    steps._recipe.options["brand_new"] = "1"
    again = Steps(steps._compared, steps._actions)
    done = {s.name for s in again.all if s.is_done()}
    assert done <= CHECKS


def lines_of(root, *argv):
    return dict(line.split(": ", 1) for line in explain(plan(root, *argv).all))


def test_dry_run_tells_the_input_that_changed_and_both_values(finished):
    edit_config("train_asr_conformer.yaml", seed=4711)(finished)
    lines = lines_of(finished)
    change = "stale: conf/train_asr_conformer.yaml seed: 2026 -> 4711"
    assert lines["training reuse3"].startswith(change)
    assert "the next run stops here" in lines["training reuse3"]
    assert lines["decoding reuse3, test_a"] == (
        "stale: training reuse3: conf/train_asr_conformer.yaml seed: 2026 -> 4711"
    )
    assert lines["data preparation"] == "done"


def test_dry_run_promises_no_stop_where_data_are_made_again_first(finished):
    for folder in ("corpus", "egs2/custom/asr1/dump/raw"):
        (finished / folder / "train/text").write_text("train-1 else\n")
    why = lines_of(finished)["training baseline"]
    assert "stops here, unless data preparation undoes that: remove its" in why


def test_dry_run_says_that_later_steps_depend_on_what_the_data_become(finished):
    append("corpus/train/text", "train-2 more\n")(finished)
    lines = lines_of(finished)
    assert lines["data preparation"].startswith("stale: --data train/text: ")
    assert lines["tokens and statistics"].startswith("done: unless formatting of the")


def test_what_a_folder_held_is_made_again_if_its_record_alone_is_left(finished):
    for path in (recipe_of(finished) / "exp/asr_train_asr_conformer_reuse3").glob(
        "[!.]*"
    ):
        if path.is_file():
            path.unlink()
    step = plan(finished).training["reuse3"]
    assert step.state()[0] == "to do" and step.refusals() == []


def test_more_epochs_are_gone_on_with_and_anything_else_is_refused(finished):
    config = "train_asr_conformer.yaml"
    edit_config(config, max_epoch=99)(finished)
    step = plan(finished).training["baseline"]
    assert step.state()[0] == "stale" and step.refusals() == []
    edit_config(config, grad_clip=1.0)(finished)
    (refusal,) = plan(finished).training["baseline"].refusals()
    assert refusal == f"conf/{config} grad_clip: none -> 1.0"


def test_a_model_that_was_made_from_a_file_of_the_same_values_is_the_same(finished):
    tuning = recipe_of(finished) / "conf/tuning"
    tuning.mkdir()
    shutil.copy(
        recipe_of(finished) / "conf/train_asr_conformer_reuse.yaml",
        tuning / "train_asr_conformer_reuse3.yaml",
    )
    assert open_steps(finished) - CHECKS == set()


def test_asr_args_and_seeds_have_folders_of_their_own(root):
    first, second = (
        plan(root, "--seeds", "1 2", "--asr_args", args)._compared.cells
        for args in ("--max_epoch 2", "--encoder_conf output_size=32 " * 20)
    )
    folders = [cell.folder.name for cell in (*first, *second)]
    assert len(set(folders)) == len(folders)
    assert "asr_train_asr_conformer_reuse3_max_epoch_2_seed2" in folders
    assert all(len(name) < 200 for name in folders)


@pytest.mark.parametrize(
    "argv, message",
    [
        (
            ("--corpus", "timit"),
            "--corpus: no recipe 'timit' in egs2; choose from: custom",
        ),
        (("--models", "reuse99x"), "no model 'reuse99x'; choose from"),
        (
            ("--models", "reuse3_warm"),
            "'reuse3_warm' is fine-tuned from the first model",
        ),
        (("--nosuch", "1"), "unknown option --nosuch: neither run.sh"),
        (("--expdir", "x"), "--expdir: run.sh sets this option itself, or does"),
        (
            ("--use_ngram", "true"),
            "--use_ngram: run.sh sets this option itself, or does",
        ),
        (("--eval_valid_set", "true"), "--eval_valid_set: run.sh sets this option"),
        (("--use_lm", "maybe"), '--use_lm: expected "true" or "false"'),
        (
            ("--test_sets", "test,dev"),
            "--test_sets: 'test,dev' is not the name of a set",
        ),
        (
            ("--data", "/no such/corpus"),
            "ESPnet's scripts do not take a path with spaces",
        ),
        (
            ("--inference_config", "x.yaml"),
            "--inference_config: there is no file 'x.yaml'",
        ),
        (("--seeds", "1", "--asr_args", "--seed 2"), "--asr_args: it has --seed"),
        (
            ("--models", "ctc", "--inference_args", "--beam_size 2"),
            "--inference_args: models with CTC alone are decoded by best path, without",
        ),
    ],
)
def test_what_cannot_be_planned_is_said_in_one_line(root, argv, message):
    with pytest.raises(UserError) as raised:
        plan(root, *argv)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_warm_config_of_the_users_own_needs_reuse(root):
    (recipe_of(root) / "conf/tuning").mkdir()
    shutil.copy(
        recipe_of(root) / "conf/train_asr_conformer.yaml",
        recipe_of(root) / "conf/tuning/train_asr_conformer_mine_warm.yaml",
    )
    with pytest.raises(UserError, match="--models: 'mine_warm' has no reuse: only"):
        plan(root, "--models", "baseline mine_warm")


def test_a_decoding_with_a_language_model_needs_one(root):
    config = recipe_of(root) / "conf/decode_lm.yaml"
    config.write_text("lm_weight: 0.3\n")
    argv = ("--inference_config", "conf/decode_lm.yaml")
    with pytest.raises(UserError, match="has an lm_weight, but there is no language"):
        plan(root, *argv)
    steps = plan(root, *argv, "--use_lm", "true")
    assert "language model" in {s.name for s in steps.all}


def test_a_recipes_own_decoding_config_goes_before_one_in_the_current_folder(
    root, monkeypatch
):
    (root / "here/conf").mkdir(parents=True)
    (root / "here/conf/decode_asr.yaml").write_text("beam_size: 1\n")
    monkeypatch.chdir(root / "here")
    (cell, *_) = plan(
        root, "--inference_config", "conf/decode_asr.yaml"
    )._compared.cells
    assert cell.decodings[0].config == recipe_of(root) / "conf/decode_asr.yaml"


BEAM, BEST_PATH = "decode_asr", "decode_asr_ctc_best_path"


@pytest.mark.parametrize(
    "argv, baseline, ctc",
    [
        ((), [BEAM, BEST_PATH], [BEST_PATH]),
        (("--asr_args", "--model_conf ctc_weight=1"), [BEST_PATH], [BEST_PATH]),
        (("--asr_args", "--model_conf ctc_weight=0.0"), [BEAM], [BEAM]),
        (
            ("--inference_config", f"conf/{BEAM}.yaml"),
            [BEAM, BEST_PATH],
            [BEAM, BEST_PATH],
        ),
        (
            ("--inference_config", f"conf/{BEST_PATH}.yaml", "--use_lm", "true")
            + ("--inference_args", "--batch_size 16"),
            [f"{BEST_PATH}_batch_size_16"],
            [f"{BEST_PATH}_batch_size_16"],
        ),
        (
            ("--inference_args", "--beam_size 2", "--use_lm", "true"),
            [f"{BEAM}_beam_size_2_lm_train", BEST_PATH],
            [BEST_PATH],
        ),
    ],
)
def test_a_model_with_a_ctc_head_is_decoded_by_best_path_too(root, argv, baseline, ctc):
    cells = plan(root, "--models", "baseline ctc", *argv)._compared.cells
    assert [[d.tag for d in cell.decodings] for cell in cells] == [baseline, ctc]


def test_best_path_uses_no_language_model(finished):
    stale = open_steps(finished, "--use_lm", "true") - CHECKS
    assert stale == of(*MODELS) - ANALYSES - BEST_PATHS | {"language model"}


def test_a_language_model_is_given_to_beam_search_alone(finished, monkeypatch):
    run, commands = Run(finished, "--use_lm", "true"), []
    cell = run.steps._compared.cells[0]
    monkeypatch.setattr(Runner, "command", lambda _, *args, **__: commands.append(args))
    for decoding, name in zip(cell.decodings, ("", ", best path"), strict=True):
        step = run.step[f"decoding baseline, test_a{name}"]
        run.steps._actions.decode(cell, decoding, "test_a", step)
    # the last value of an option counts
    beam, best_path = (
        dict(zip(words[2::2], words[3::2], strict=True)) for words in commands
    )
    assert beam["--use_lm"] == "true" and "--lm_exp" in beam
    assert best_path["--use_lm"] == "false" and "--lm_exp" not in best_path


def test_each_decoding_is_scored_and_what_is_out_of_date_in_any_is_removed(
    finished, monkeypatch
):
    run, commands, outdated = Run(finished), [], []
    cell = run.steps._compared.cells[0]
    for decoding in cell.decodings:
        folder = cell.folder / decoding.tag
        outdated.append(shutil.copytree(folder / "test_a", folder / "other"))
        replace(outdated[-1] / ".record.json", '"--inference_args":""', '"x":"y"')
    monkeypatch.setattr(Runner, "command", lambda _, *args, **__: commands.append(args))
    run.steps._actions.score(cell, run.step["scoring baseline"])
    (words,) = commands
    folders = [f"exp/{cell.folder.name}/{tag}" for tag in (BEAM, BEST_PATH)]
    assert words[words.index("--expdir") + 1 : words.index("--sets")] == (*folders,)
    assert [path.exists() for path in outdated] == [False, False]
    assert all(need.is_done() for need in run.step["scoring baseline"].needs)


def test_librispeech_is_tested_on_the_parts_that_are_asked_for(root):
    shutil.copytree(
        ROOT / "egs2/librispeech_100",
        root / "egs2/librispeech_100",
        symlinks=True,
        ignore=MADE_BY_RUNS,
    )
    if (root / "egs2/librispeech_100/asr1/local").is_symlink():
        (root / "egs2/librispeech").symlink_to(ROOT / "egs2/librispeech")
    given = {"parts": "train-clean-100 test-other", "librispeech": "/corpus"}
    recipe = Recipe(root, "librispeech_100", given)
    assert recipe.test_sets == ["test_other"]
    assert recipe.data_options["parts"] == "train-clean-100,test-other"
    with pytest.raises(
        UserError, match="--parts: there is no test set among them: add"
    ):
        Recipe(root, "librispeech_100", given | {"parts": "train-clean-100"})


# ------------------------------ what is finished is kept ------------------------------

CONFIG = "train_asr_conformer.yaml"
AVERAGE = "valid.acc.ave.pth"


class Run:
    """A run of the plan, with what it shows; its configs have been checked."""

    def __init__(self, root, *argv):
        steps = plan(root, *argv)
        compared, self.output = steps._compared, io.StringIO()
        display = Display(Console(file=self.output, width=1000))
        runner = Runner(recipe_of(root), display, 1, [])
        facts = {"disk_bytes": 1, "checkpoint": AVERAGE}
        for model in compared.models:
            shutil.copy(recipe_of(root) / "conf" / CONFIG, self.config(compared, model))
        names = {compared.checked_config(m).name: facts for m in compared.models}
        write_json(names, compared.checked / "checked.json")
        self.steps = Steps(compared, Actions(compared, runner))
        self.step = {step.name: step for step in self.steps.all}
        self.do = lambda name: runner.run_step(self.step[name])

    def config(self, compared, model):
        compared.checked.mkdir(parents=True, exist_ok=True)
        return compared.checked_config(model)

    def lines(self):
        return [x.split(") ", 1)[1] for x in self.output.getvalue().splitlines()]


def test_a_run_of_other_models_does_not_wait_for_one_that_trains(finished, monkeypatch):
    monkeypatch.setattr(Actions, "check_lengths", lambda *_: None)
    run = Run(finished, "--models", "baseline reuse2", "--stop_stage", "2")
    compared, runner = run.steps._compared, run.steps._actions.runner
    run.steps.shared[0].write_record(done=True)
    with runner.locked("the data", shared=True):
        threading.Timer(2, runner.stop).start()
        driver.run(run.steps, compared, runner)
    assert run.lines() == [
        *(f"{step.title}: done already" for step in run.steps.shared[:4]),
        run.steps.lengths.title,
    ]


@pytest.fixture
def model(finished):
    """The folder of a baseline of three epochs whose average is a file of its own."""
    folder = recipe_of(finished) / "exp/asr_train_asr_conformer"
    weights = {"w": torch.ones(5000)}
    for name in ("1epoch.pth", "3epoch.pth", AVERAGE):
        torch.save(weights, folder / name)
    stats = {n: {"valid": {"acc": 1.0 / n}} for n in (1, 2, 3)}
    states = {"model": weights, "reporter": {"stats": stats, "epoch": 3}}
    torch.save(states, folder / "checkpoint.pth")
    return folder


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 :][:500] = bytes(500)
    data[5000:5500] = bytes(500)
    path.write_bytes(data)


def refusal(run, name):
    with pytest.raises(UserError) as raised:
        run.do(name)
    (line,) = str(raised.value).splitlines()
    return line


def make_stale(path):
    record = json.loads(path.read_text())
    write_json(record | {"done": False}, path)


READERS = (
    "decoding baseline, test_a",
    "analysis of baseline",
    "comparison",
    "training reuse3_warm",
)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("spoil", [damage, lambda path: path.write_bytes(b"")])
def test_a_damaged_average_is_named_before_what_reads_it(finished, model, name, spoil):
    spoil(model / AVERAGE)
    for other in ("reuse3", "reuse3_warm"):
        shutil.copy(model / "3epoch.pth", f"{model}_{other}/{AVERAGE}")
    run = Run(finished)
    step = run.step[name]
    make_stale(step.record)
    if step.resumed:
        step.resumed.unlink()
    before = step.record.read_text()
    assert refusal(run, name) == (
        f"egs2/custom/asr1/exp/{model.name}/{AVERAGE} is damaged or missing: remove "
        "it and run all stages; the average is then made again from the models of the "
        "epochs"
    )
    assert step.record.read_text() == before


def test_an_average_that_was_removed_is_made_anew(finished, model):
    assert plan(finished).training["baseline"].is_done()
    (model / "valid.acc.ave_3best.pth").symlink_to("3epoch.pth")
    (model / AVERAGE).unlink()
    (model / AVERAGE).symlink_to("gone.pth")
    assert plan(finished).training["baseline"].state() == (
        "to do",
        f"{model}/*.ave.pth is not there",
    )


def test_a_finished_model_is_not_unmarked_if_it_cannot_be_trained_on(finished, model):
    edit_config(CONFIG, max_epoch=99)(finished)
    damage(model / "checkpoint.pth")
    run = Run(finished)
    before = {p.name: p.read_bytes() for p in model.iterdir() if p.is_file()}
    line = refusal(run, "training baseline")
    assert f"exp/{model.name}/checkpoint.pth is damaged, and ESPnet cannot" in line
    assert line.endswith(
        f"the finished model stays usable: undo conf/{CONFIG} max_epoch: 20 -> 99"
    )
    after = {p.name: p.read_bytes() for p in model.iterdir() if p.is_file()}
    del after["run_repair.log"]
    assert after == before
    edit_config(CONFIG, max_epoch=20)(finished)
    assert all(step.is_done() for step in Run(finished).steps.training.values())


def test_resume_false_unmarks_nothing(finished, model):
    edit_config(CONFIG, max_epoch=99)(finished)
    run = Run(finished, "--resume", "false")
    before = run.step["training baseline"].record.read_text()
    assert refusal(run, "training baseline") == (
        f"--resume false: exp/{model.name} holds a training: remove it to start anew"
    )
    assert run.step["training baseline"].record.read_text() == before


def test_max_epoch_in_asr_args_is_said_to_train_from_nothing(finished, model):
    for argv, told in (
        (("--asr_args", "--max_epoch 40"), True),
        (("--asr_args", "--max_epoch=40"), True),
        (("--asr_args", "--max_epoch 40 --seed 3"), False),  # there is no other
        (("--seeds", "3", "--asr_args", "--max_epoch 40"), False),
    ):
        run = Run(finished, *argv)
        (name, *_) = run.steps.training
        step = run.steps.training[name]
        step.check(step)
        note = (
            "note: --max_epoch in --asr_args trains baseline from nothing, in "
            f"{step.record.parent.name}; to continue {model.name} instead, raise "
            f"max_epoch in conf/{CONFIG}"
        )
        assert run.lines() == [note] * told


def test_a_warm_model_of_a_baseline_with_other_epochs_says_so(finished, model):
    edit_config(CONFIG, max_epoch=99)(finished)
    line = refusal(Run(finished), "training reuse3_warm")
    assert (
        "asr_train_asr_conformer_reuse3_warm was made before a change: training "
        in line
    )
    assert f"training baseline: conf/{CONFIG} max_epoch: 20 -> 99; remove it" in line


@pytest.fixture
def lm(finished, model):
    """A function that plans a run with a language model, which is trained."""
    config = recipe_of(finished) / "conf/lm.yaml"
    config.write_text("max_epoch: 3\n")
    text = recipe_of(finished) / "dump/raw/train/more"
    text.touch()

    def run():
        argv = ("--lm_config", "conf/lm.yaml", "--lm_train_text", str(text))
        return Run(finished, "--use_lm", "true", *argv)

    first = run()
    first.file, first.again = first.steps._compared.lm_file, run
    first.file.parent.mkdir()
    for name in ("3epoch.pth", "checkpoint.pth"):
        shutil.copy(model / name, first.file.with_name(name))
    shutil.copy(model / AVERAGE, first.file)
    first.step["language model"].write_record(done=True)
    assert first.step["language model"].is_done()
    return first


def test_a_damaged_language_model_is_named_before_decoding(lm):
    damage(lm.file)
    line = refusal(lm, "decoding baseline, test_a")
    assert f"exp/lm_lm/{lm.file.name} is damaged or missing: remove it" in line
    lm.file.unlink()
    assert lm.step["language model"].state() == ("to do", f"{lm.file} is not there")


def test_a_language_model_is_trained_on_with_more_epochs_alone(lm, finished):
    (recipe_of(finished) / "conf/lm.yaml").write_text("max_epoch: 2\n")
    line = refusal(lm.again(), "language model")
    assert "exp/lm_lm is trained for 3 epochs, more than max_epoch 2: raise" in line
    (recipe_of(finished) / "conf/lm.yaml").write_text("max_epoch: 3\noptim: sgd\n")
    text = recipe_of(finished) / "dump/raw/train/more"
    text.write_text("train-9 fetched by the step itself\n")
    line = refusal(lm.again(), "language model")
    assert "exp/lm_lm was made before a change: conf/lm.yaml optim: none -> sgd" in line
