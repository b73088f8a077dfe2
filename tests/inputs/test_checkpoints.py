# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What full disks, kills and users leave of a training, and whether it goes on."""

from pathlib import Path

import pytest
import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.tasks.asr import ASRTask
from espnet2.train.reporter import Reporter
from table import Row, each

from espnet_reuse.comparison.repair_checkpoint import repair
from espnet_reuse.comparison.results import read_training
from espnet_reuse.errors import UserError
from espnet_reuse.files import is_whole
from espnet_reuse.pretrained import read_parameters

ACCURACIES = {1: 0.1, 2: 0.5, 3: 0.7, 4: 0.6, 5: 0.4, 6: 0.3}
CRITERION = [("valid", "acc", "max")]
NBEST = 3  # epochs 3, 4 and 2


class Training:
    """A folder after six epochs, as ESPnet's trainer leaves it, and its options."""

    def __init__(self, folder):
        self.folder = folder
        self.args = ASRTask.get_parser().parse_args([])
        self.args.best_model_criterion, self.args.max_epoch = CRITERION, 9
        self.args.keep_nbest_models = NBEST
        models = {n: {"w": torch.full((30000,), float(n))} for n in ACCURACIES}
        for epoch in (2, 3, 4, 6):
            torch.save(models[epoch], folder / f"{epoch}epoch.pth")
        seconds = {"time": {"__timedelta_seconds__": 2.0}, "total_count": 5}
        stats = {
            n: {"train": seconds, "valid": seconds | {"acc": accuracy, "loss": -n}}
            for n, accuracy in ACCURACIES.items()
        }
        states = {"model": models[6], "reporter": {"stats": stats, "epoch": 6}}
        states |= {"optimizers": [{"m": models[6]}], "schedulers": [], "scaler": None}
        torch.save(states, folder / "checkpoint.pth")
        for name, epoch in (("latest", 6), ("valid.acc.best", 3)):
            (folder / f"{name}.pth").symlink_to(f"{epoch}epoch.pth")
        self.average()

    def __truediv__(self, name):
        return self.folder / name

    def average(self):
        """Average the best epochs as ESPnet does; return the epochs."""
        states = torch.load(self / "checkpoint.pth", weights_only=True)
        reporter = Reporter()
        reporter.load_state_dict(states["reporter"])
        options = self.args.best_model_criterion, self.args.keep_nbest_models
        average_nbest_models(self.folder, reporter, *options)
        epochs = reporter.sort_epochs("valid", "acc", "max")[:NBEST]
        average = torch.load(self / "valid.acc.ave.pth", weights_only=True)["w"]
        if self.args.keep_nbest_models == NBEST:
            assert average[0].item() == pytest.approx(sum(epochs) / len(epochs))
        return epochs

    def content(self):
        """Return {name: bytes, or what a link names}."""
        paths = self.folder.iterdir()
        return {
            p.name: p.readlink() if p.is_symlink() else p.read_bytes() for p in paths
        }


@pytest.fixture
def training(tmp_path):
    return Training(tmp_path)


# ------------------------------ damages ------------------------------


def zeros(path: Path, start: int, count: int) -> None:
    """Overwrite bytes with zeros, counted from the end if `start` is negative."""
    data = bytearray(path.read_bytes())
    start %= len(data)
    data[start : start + count] = bytes(len(data[start : start + count]))
    path.write_bytes(data)


def in_tensor(name):
    def damage(training):
        path = training / name
        zeros(path, path.stat().st_size // 2, 2000)
        torch.load(path, weights_only=True)  # PyTorch does not mind

    return damage


def cut(name, left=-100):
    def damage(training):
        path = training / name
        path.write_bytes(path.read_bytes()[:left])

    return damage


def gone(*names):
    def damage(training):
        for name in names:
            (training / name).unlink()

    return damage


def several(*damages):
    return lambda training: [damage(training) for damage in damages]


def option(**values):
    return lambda training: vars(training.args).update(values)


def a_models_file(training):
    data = (training / "6epoch.pth").read_bytes()
    (training / "checkpoint.pth").write_bytes(data)


def killed_before_it_was_saved(training):
    """checkpoint.pth is of epoch 6, and of its model an earlier training's is there."""
    torch.save({"w": torch.zeros(3)}, training / "6epoch.pth")
    (training / "latest.pth").unlink()
    (training / "latest.pth").symlink_to("5epoch.pth")


def killed_in_the_first_epoch(training):
    for path in training.folder.iterdir():
        if path.name != "checkpoint.pth":
            path.unlink()
    cut("checkpoint.pth")(training)


def links_copied_as_files(training):
    for path in training.folder.iterdir():
        if path.is_symlink():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)


EPOCHS = [f"{n}epoch.pth" for n in (2, 3, 4, 6)]
NO_RESUMING = "checkpoint.pth is damaged, and ESPnet cannot continue the training with"
NO_CHECKPOINT = "checkpoint.pth is not there, and ESPnet cannot continue the training "
NO_AVERAGE = "3epoch.pth is damaged; it is one of the best epochs to average: move "
RESTORED = "6epoch.pth was not saved: restored from checkpoint.pth"

TABLE = [
    Row("a whole training", several(), "taken"),
    Row(
        "50 kB of zeros in checkpoint.pth",
        lambda t: zeros(t / "checkpoint.pth", 1000, 50000),
        "refused",
        NO_RESUMING,
    ),
    Row(
        "2,000 zero bytes inside a tensor of checkpoint.pth",
        in_tensor("checkpoint.pth"),
        "refused",
        NO_RESUMING,
    ),
    Row(
        "some zeros in the table at the end of checkpoint.pth",
        lambda t: zeros(t / "checkpoint.pth", -800, 700),
        "refused",
        NO_RESUMING,
    ),
    Row("checkpoint.pth cut short", cut("checkpoint.pth"), "refused", NO_RESUMING),
    Row("checkpoint.pth empty", cut("checkpoint.pth", 0), "refused", NO_RESUMING),
    Row("a model as checkpoint.pth", a_models_file, "refused", NO_RESUMING),
    Row("checkpoint.pth gone", gone("checkpoint.pth"), "refused", NO_CHECKPOINT),
    Row(
        "checkpoint.pth and epochs gone, the average left",
        gone("checkpoint.pth", *EPOCHS),
        "refused",
        NO_CHECKPOINT + "without it; valid.acc.ave_3best.pth can still",
    ),
    Row(
        "checkpoint.pth cut short in the first epoch",
        killed_in_the_first_epoch,
        "noted",
        "checkpoint.pth is damaged, and no epoch is whole: kept as *.damaged",
    ),
    Row(
        "every file cut short",
        several(
            *map(cut, ("checkpoint.pth", "valid.acc.ave_3best.pth", *EPOCHS)),
        ),
        "noted",
        "training starts anew",
    ),
    Row("a best epoch cut short", cut("3epoch.pth"), "refused", NO_AVERAGE),
    Row("a best epoch empty", cut("3epoch.pth", 0), "refused", NO_AVERAGE),
    Row("zeros in a best epoch", in_tensor("3epoch.pth"), "refused", NO_AVERAGE),
    Row(
        "two best epochs cut short",
        several(cut("2epoch.pth"), cut("3epoch.pth")),
        "refused",
        NO_AVERAGE,
    ),
    Row(
        "a best epoch gone",
        gone("3epoch.pth"),
        "noted",
        "lacks 3epoch.pth: the average is made without",
    ),
    Row(
        "all best epochs gone",
        gone("2epoch.pth", "3epoch.pth", "4epoch.pth"),
        "noted",
        "lacks 2epoch.pth; 3epoch.pth; 4epoch.pth: the average is made without",
    ),
    Row("the last epoch cut short", cut("6epoch.pth"), "noted", RESTORED),
    Row(
        "the last epoch, which is the best, cut short",
        several(
            cut("6epoch.pth"),
            option(best_model_criterion=[("valid", "loss", "min")]),
            option(keep_nbest_models=1),
        ),
        "noted",
        RESTORED,
    ),
    Row("zeros in the last epoch", in_tensor("6epoch.pth"), "noted", RESTORED),
    Row("the last epoch gone", gone("6epoch.pth"), "noted", RESTORED),
    Row("the last epoch not saved", killed_before_it_was_saved, "noted", RESTORED),
    Row("links copied as files", links_copied_as_files, "noted", RESTORED),
    Row(
        "zeros in an epoch that is not averaged",
        several(in_tensor("4epoch.pth"), option(keep_nbest_models=1)),
        "taken",
    ),
    Row(
        "zeros in the average",
        in_tensor("valid.acc.ave_3best.pth"),
        "taken",
    ),
    Row("as many epochs as are trained", option(max_epoch=6), "taken"),
    Row(
        "fewer epochs than are trained",
        option(max_epoch=5),
        "refused",
        "is trained for 6 epochs, more than max_epoch 5: raise max_epoch, or",
    ),
    Row(
        "more epochs after early stopping",
        option(patience=2, early_stopping_criterion=CRITERION[0]),
        "noted",
        "was stopped early at epoch 6, by its patience of 2: no more epochs",
    ),
    Row(
        "more epochs with patience left",
        option(patience=3, early_stopping_criterion=CRITERION[0]),
        "taken",
    ),
]


@each(TABLE)
def test_a_training_goes_on_or_says_why_not_and_no_whole_file_is_lost(row, training):
    row.make(training)
    before = training.content()
    if row.outcome == "refused":
        with pytest.raises(UserError) as raised:
            repair(training.folder, training.args)
        lines = str(raised.value).splitlines()
        assert any(row.line in line for line in lines)
        damaged = [n for n in EPOCHS if n in before and not is_whole(training / n)]
        assert all(any(name in line for line in lines) for name in damaged)
        assert training.content() == before
        return
    notes = repair(training.folder, training.args)
    assert [row.line in note for note in notes] == [True] * (row.outcome == "noted")
    after = training.content()
    if "anew" in str(notes):
        # every byte is kept, in files that ESPnet does not take for its own
        files = {k: v for k, v in before.items() if isinstance(v, bytes)}
        assert files == {name: after[f"{name}.damaged"] for name in files}
        assert not files.keys() & after.keys()
        return
    assert repair(training.folder, training.args) in ([], notes)
    there = [n for n in ACCURACIES if (training / f"{n}epoch.pth").is_file()]
    best = sorted(there, key=ACCURACIES.get, reverse=True)[:NBEST]
    assert training.average() == best
    latest = torch.load(training / "latest.pth", weights_only=True)
    assert latest["w"].tolist() == [6.0] * 30000


def test_the_epochs_are_counted_also_if_the_models_of_some_are_lost(training):
    (training / "config.yaml").write_text("best_model_criterion: [[valid, acc, max]]")
    (training / "train.log").write_text("")
    before = read_training(training.folder)
    assert before["epochs"] == 6 and before["best_epoch"] == 3
    assert before["seconds_to_best"] == 12.0
    gone("2epoch.pth")(training)
    repair(training.folder, training.args)
    after = read_training(training.folder)
    assert after == before | {"seconds_to_best": None}


@pytest.mark.parametrize(
    "damage",
    [cut("checkpoint.pth"), cut("checkpoint.pth", 0), gone("checkpoint.pth")],
    ids=["cut short", "empty", "gone"],
)
def test_a_comparison_without_a_checkpoint_says_so_in_a_line(training, damage):
    (training / "config.yaml").write_text("best_model_criterion: [[valid, acc, max]]")
    damage(training)
    with pytest.raises(UserError, match="checkpoint.pth is damaged or not there, so"):
        read_training(training.folder)


@pytest.mark.parametrize(
    "damage",
    [cut("3epoch.pth"), in_tensor("3epoch.pth")],
    ids=["cut short", "zeros inside a tensor"],
)
def test_a_damaged_model_is_not_read_as_if_it_were_whole(training, damage):
    assert read_parameters(training / "3epoch.pth").keys() == {"w"}
    damage(training)
    with pytest.raises(UserError, match="3epoch.pth is damaged or cut short"):
        read_parameters(training / "3epoch.pth")


def test_what_deepspeed_saves_is_left_to_espnet(training):
    gone("checkpoint.pth")(training)
    training.args.use_deepspeed = True
    assert repair(training.folder, training.args) == []
