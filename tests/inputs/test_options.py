# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Command lines of ./run.sh that people type."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest
from table import Row, each

from espnet_reuse.bin import compare
from espnet_reuse.comparison import check_config
from espnet_reuse.comparison.actions import Actions
from espnet_reuse.comparison.cells import Comparison
from espnet_reuse.comparison.recipe import Recipe
from espnet_reuse.comparison.steps import Steps
from espnet_reuse.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ("custom", "mini_an4")
MADE_BY_RUNS = shutil.ignore_patterns("data", "downloads", "dump", "exp")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A repository in which nothing was run."""
    root = tmp_path_factory.mktemp("repository")
    for name in ("tools", "conf"):
        (root / name).symlink_to(ROOT / name)
    (root / "egs2").mkdir()
    for name in ("TEMPLATE", "local_data.sh"):
        (root / "egs2" / name).symlink_to(ROOT / "egs2" / name)
    for name in RECIPES:
        folder = f"egs2/{name}"
        shutil.copytree(
            ROOT / folder, root / folder, symlinks=True, ignore=MADE_BY_RUNS
        )
    tuning = root / "egs2/mini_an4/asr1/conf/tuning"
    tuning.mkdir(exist_ok=True)
    (tuning / "train_asr_conformer_list.yaml").write_text("- 1\n")
    (tuning / "train_asr_conformer_cut.yaml").write_text("encoder: [\n")
    for n in range(2):
        name = f"train_asr_conformer_twin{n}.yaml"
        shutil.copy(ROOT / "egs2/mini_an4/asr1/conf/train_asr_conformer.yaml", tuning)
        (tuning / "train_asr_conformer.yaml").rename(tuning / name)
    (root / "file").touch()
    (root / "with space").mkdir()
    shutil.copy(tuning.parent / "decode_asr.yaml", root / "with space/x.yaml")
    return root


def row(tried, line, said=None):
    """A row of a command line as one types it; {root} is the current folder.

    It is refused with what is said, if anything is.
    """

    def make(root):
        return shlex.split(line.format(root=root))

    return Row(tried, make, "refused" if said else "taken", said or "note: ")


ONCE = "is there more than once"
NO_RECIPE = "--corpus: no recipe"
FIXED = ": run.sh sets this option itself, or does not use it"
COMMANDS = [
    # names
    row("a recipe by its path", "--corpus ../egs2/mini_an4", NO_RECIPE),
    row("a recipe with a slash", "--corpus mini_an4/", NO_RECIPE),
    row("an empty recipe", "--corpus ''", NO_RECIPE),
    row("a seed twice", "--seeds '1 1'", f"--seeds: '1' {ONCE}"),
    row("a seed in two spellings", "--seeds '1 01'", f"--seeds: '1' {ONCE}"),
    row("the greatest seed", f"--seeds {2**32 - 1}"),
    row("a seed beyond NumPy's", f"--seeds {2**32}", "--seeds: '4294967296'"),
    row(
        "a model twice",
        "--models 'baseline baseline'",
        f"--models: 'baseline' {ONCE}",
    ),
    row(
        "a model under two names",
        "--models 'baseline reuse2_layers8 layers8_reuse2'",
        "--models: 'reuse2_layers8' and 'layers8_reuse2' are the same",
    ),
    row(
        "two files of the same values",
        "--models 'baseline twin0'",
        "--models: 'baseline' and 'twin0' are the same",
    ),
    row("a model and its warm start", "--models 'baseline reuse2 reuse2_warm'"),
    row("a zero before N", "--models reuse02", "--models: no model 'reuse02'"),
    row("a model in capitals", "--models Baseline", "no model 'Baseline'"),
    row("models with commas", "--models baseline,reuse2", "--models: no model"),
    row(
        "models with a line break and a no-break space",
        "--models 'baseline\nreuse2\u00a0reuse3'",
    ),
    row("a config that is a list", "--models list", "is not a mapping"),
    row("a config cut short", "--models cut", "is not YAML"),
    # numbers
    row("jobs without end", "--jobs 99999999999", "--jobs: '99999999999'"),
    row("a number of 5000 digits", f"--nj {'9' * 5000}", "--nj: invalid"),
    row("jobs in letters", "--nj 4x", "--nj: '4x' is not a whole number"),
    row("a vocabulary in letters", "--nbpe abc", "--nbpe: 'abc' is not a"),
    row("a vocabulary of nothing", "--nbpe ''", "--nbpe: '' is not a"),
    row("a rate in letters", "--fs abc", "--fs: 'abc' is not a positive"),
    row("a rate in kilohertz", "--fs 44.1k"),
    row("no least duration", "--min_wav_duration 0"),
    row("a batch of nothing", "--batch_size 0", "--batch_size: '0' is not"),
    # sets
    row("a test set twice", "--test_sets 'a a'", f"--test_sets: 'a' {ONCE}"),
    row(
        "tests on the training set",
        "--test_sets train_nodev",
        "--test_sets: 'train_nodev' is the training set",
    ),
    row("no test set", "--test_sets ''", "--test_sets: '' is not the name"),
    row("a set of two words", "--train_set 'a b'", "--train_set: 'a b' is no"),
    row("a set above the data", "--test_sets ..", "--test_sets: '..' is not"),
    row("a set with letters of its own", "--test_sets prüfung_試験"),
    row(
        "an analysis of a set that will not be there",
        "--stop_stage 7 --analysis_set tset",
        "--analysis_set: no set 'tset'; choose from: ",
    ),
    row("an analysis of all", "--analysis_set ..", "--analysis_set: no set"),
    # words
    row("an option that nobody has", "--nosuch 1", "unknown option --nosuch"),
    row("an option with =", "--corpus=mini_an4", "write --option value"),
    row("two dashes alone", "-- 1", "unexpected argument '--'"),
    row("an option twice, of which the last counts", "--nj 1 --nj 2"),
    row("an option of asr.sh twice", "--nbpe abc --nbpe 30"),
    row("code", "--lm_args '$(touch pwned)'", "--lm_args: $ in '$(touch"),
    row("older code", "--asr_args '`touch pwned`'", "--asr_args: ` in"),
    row("a control character", "--bpemode 'a\x07'", "has control characters"),
    row("results in a file", "--results file", "--results: cannot make"),
    row("results below a file", "--results file/x", "--results: cannot"),
    row("results with letters", "--results Ergebnisse/März_結果"),
    row(
        "a decoding's path with spaces",
        "--inference_config '{root}/with space/x.yaml'",
        "with space/x.yaml', or its path has spaces",
    ),
    # what the check of the configs looks at, stage 0
    row("no epochs", "--asr_args '--max_epoch 0'", "max_epoch: 0 is less"),
    row("less epochs than none", "--asr_args '--max_epoch -3'", "-3 is less"),
    row("no best models", "--asr_args '--keep_nbest_models 0'", "[0] is less"),
    row("batches of none", "--asr_args '--batch_bins 0'", "batch_bins: 0 is"),
    row("a seed below 0", "--asr_args '--seed -1'", "seed: -1 is less than 0"),
    row(
        "weights that are no share",
        "--asr_args '--model_conf ctc_weight=2'",
        "ctc_weight: 2 is not from 0 to 1",
    ),
    row(
        "weights that are no number",
        "--asr_args '--model_conf ctc_weight=a'",
        "could not convert string to float: 'a'",
    ),
    row(
        "epochs chosen by what no model reports",
        "--asr_args '--best_model_criterion valid,accc,max'",
        "best_model_criterion: valid,accc,max is not like valid,acc,max",
    ),
    row(
        "epochs chosen by a decoder that is not trained",
        "--asr_args '--model_conf ctc_weight=1.0 --best_model_criterion valid,acc,max'",
        "best_model_criterion: a model with CTC alone has no acc",
    ),
    row(
        "epochs chosen by CTC, among others by a decoder that is not trained",
        "--asr_args '--model_conf ctc_weight=1.0 --best_model_criterion valid,loss,min"
        " valid,acc,max'",
    ),
    row("a step back", "--asr_args '--optim_conf lr=-1'", "Invalid learning"),
    row(
        "a scheduler's option that it lacks",
        "--asr_args '--scheduler_conf nosuch=1'",
        "unexpected keyword argument 'nosuch'",
    ),
    row("an open quote", '--asr_args "--max_epoch \'1"', "No closing quot"),
    row("an option that training lacks", "--asr_args '--nosuch 1'", "nosuch"),
    row("another place", "--asr_args '--output_dir x'", f"output_dir{FIXED}"),
    row("its short form", "--asr_args '--out x'", f"--output_dir{FIXED}"),
    row("no resuming", "--asr_args '--resume false'", f"--resume{FIXED}"),
    row("other tokens", "--asr_args '--token_type bpe'", f"token_type{FIXED}"),
    row("a dry training", "--asr_args '--dry_run true'", f"--dry_run{FIXED}"),
    row("help for asr_args", "--asr_args --help", "--help stands alone"),
    row("asr_args on two lines", "--asr_args '--max_epoch 1\n  --seed 2'"),
    row("a training option with =", "--asr_args --max_epoch=1"),
    row("no beam", "--inference_args '--beam_size 0'", "beam_size: 0 is less"),
    row("much CTC", "--inference_args '--ctc_weight 2'", "2.0 is not from 0"),
    row("a file of ours", "--inference_args '--key_file x'", f"key_file{FIXED}"),
    row("no utterances", "--analysis_args '--num_utts 0'", "--num_utts: '0'"),
    row("elsewhere", "--analysis_args '--data_dir x'", f"--data_dir{FIXED}"),
    row("a path in quotes", "--analysis_args \"--alignments '/a b'\""),
]


class Here:
    """A runner that checks the configs in this process: it imports ESPnet once."""

    def command(self, what, *command, log):
        sys.argv = [str(word) for word in command[4:]]
        check_config.main()


@each(COMMANDS)
def test_each_command_line_is_taken_or_answered_in_one_line(
    row, root, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    monkeypatch.setenv("ESPNET_REUSE_ROOT", str(root))
    monkeypatch.setattr(sys, "argv", [])
    before = sorted(root.rglob("*"))
    argv = ["--models", "baseline", *row.make(root)]
    try:
        compare.main([*argv, "--dry_run", "true"])
        assert sorted(root.rglob("*")) == before
        options, others = compare.read_options(argv)
        recipe = Recipe(root, options.corpus, others)
        comparison = Comparison(recipe, options, "")
        actions = Actions(comparison, Here())
        if any("_args" in word for word in argv):
            monkeypatch.chdir(recipe.folder)
            actions.check_configs(Steps(comparison, actions).shared[0])
        failed = False
    except SystemExit as e:
        failed = e.code != 0
    lines = capsys.readouterr().err.splitlines()
    lines = [line for line in lines if "Flash" not in line]  # printed on importing
    assert failed == (row.outcome == "refused") and not (root / "pwned").exists()
    assert len(lines) == failed and (row.line in "".join(lines)) == failed


def test_all_that_is_wrong_with_the_options_is_said_in_one_go(root):
    given = {"nbpe": "abc", "nosuch": "1", "test_sets": "a a", "valid_set": ""}
    with pytest.raises(UserError) as raised:
        Recipe(root, "mini_an4", given)
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0].split("--")[1] for line in lines] == [
        "nbpe",
        "nosuch",
        "valid_set",
        "test_sets",
    ]
