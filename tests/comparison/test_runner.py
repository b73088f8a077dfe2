# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Running steps: order, failures, locks between runs, what is shown."""

import errno
import fcntl
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from espnet_reuse.comparison.display import Display, read_progress
from espnet_reuse.comparison.plan import Step
from espnet_reuse.comparison.runner import Runner, Stopped, deciding_lines


class Shop:
    """A folder with steps whose actions are commands, and what was run of them."""

    def __init__(self, folder, jobs=1, gpus=()):
        self.folder, self.output = folder, io.StringIO()
        display = Display(Console(file=self.output, width=200))
        self.runner = Runner(folder, display, jobs, gpus)

    def step(self, name, command="true", **kwargs):
        def action(step):
            self.runner.command(
                step.title, "sh", "-c", command, log=self.folder / f"{name}.log"
            )

        record = self.folder / name / "record.json"
        return Step(name, 3, record, lambda: {"command": command}, action, **kwargs)

    def lines(self):
        return [line.split(") ", 1)[1] for line in self.output.getvalue().splitlines()]


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def test_steps_are_done_once_each_after_what_it_needs(shop):
    first = shop.step("first", "echo first >> order")
    second = shop.step("second", "echo second >> order", needs=(first,))
    third = shop.step("third", "echo third >> order", after=(second,))
    for _ in range(2):
        assert shop.runner.run([third, second, first]) == {}
    assert (shop.folder / "order").read_text().split() == ["first", "second", "third"]
    assert sum("done already" in line for line in shop.lines()) == 3


def test_a_failed_step_stops_its_heirs_alone_and_is_named_with_the_deciding_line(shop):
    command = "echo go; echo 'train: error: no such corpus'; echo traceback; exit 1"
    broken = shop.step("broken", command)
    heir, other = shop.step("heir", needs=(broken,)), shop.step("other")
    failed = shop.runner.run([broken, heir, other])
    assert list(failed) == ["broken"]
    message = str(failed["broken"])
    assert message.startswith(
        "Stage 3: broken failed: train: error: no such corpus (log"
    )
    assert other.is_done() and not heir.is_done() and not broken.is_done()


def test_jobs_are_done_side_by_side_each_with_its_gpus(tmp_path):
    shop = Shop(tmp_path, jobs=2, gpus=["0,1", "2,3"])
    # each waits for the other
    commands = [
        f"echo $CUDA_VISIBLE_DEVICES >> devices; touch {a}; "
        f"for i in $(seq 100); do [ -e {b} ] && exit; sleep 0.1; done; exit 1"
        for a, b in (("a", "b"), ("b", "a"))
    ]
    steps = [shop.step(f"step{n}", command) for n, command in enumerate(commands)]
    assert shop.runner.run(steps) == {}
    assert set((tmp_path / "devices").read_text().split()) == {"0,1", "2,3"}


def test_another_run_waits_for_a_step_and_does_not_do_it_again(tmp_path):
    shops = [Shop(tmp_path), Shop(tmp_path)]
    threads = [
        threading.Thread(target=shop.runner.run, args=([shop.step("a", command)],))
        for shop, command in zip(shops, ["echo x >> runs; sleep 1"] * 2, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "runs").read_text() == "x\n"
    lines = [line for shop in shops for line in shop.lines()]
    assert sum("Another run is at work on a, perhaps a part" in x for x in lines) == 1
    assert sum("a: done already" in x for x in lines) == 1


def test_what_a_killed_run_leaves_behind_is_waited_for(tmp_path):
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from test_runner import Shop\n"
        "shop = Shop(Path(sys.argv[2]))\n"
        "shop.runner.run([shop.step('a', 'touch begun; sleep 2; touch ended')])"
    )
    here = Path(__file__).parent
    run = subprocess.Popen([sys.executable, "-c", program, here, tmp_path])
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    run.kill()
    run.wait()
    shop = Shop(tmp_path)
    step = shop.step("a", "[ -e ended ]")
    assert shop.runner.run([step]) == {} and step.is_done()
    assert any("perhaps a part of one that was killed" in x for x in shop.lines())


def test_a_file_system_without_locks_is_told_from_another_run(shop, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert shop.runner.run([shop.step("a")]) == {}
    (line,) = [line for line in shop.lines() if "WARNING" in line]
    assert "cannot be locked (No locks available)" in line


def test_a_stopped_run_leaves_no_process_and_no_record(shop):
    step = shop.step("long", "sleep 60 & echo $! > pid; wait")

    def stop():
        while not (shop.folder / "pid").is_file():
            time.sleep(0.05)
        time.sleep(0.2)
        shop.runner.stop()

    threading.Thread(target=stop).start()
    with pytest.raises(Stopped):
        shop.runner.run([step])
    pid = int((shop.folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(pid, 0)
            time.sleep(0.1)
    assert not step.is_done()


def test_what_cannot_be_gone_on_with_is_refused_with_both_values(shop):
    kept = shop.folder / "checkpoint.pth"
    shop.runner.run([shop.step("model", "exit 1", resumed=kept)])
    # nothing was kept of that: another command begins anew
    assert shop.runner.run([shop.step("model", f"touch {kept}", resumed=kept)]) == {}
    failed = shop.runner.run([shop.step("model", "echo new", resumed=kept)])
    assert (
        f"was made before a change: command: touch {kept} -> echo new; remove it"
        in str(failed["model"])
    )


@pytest.mark.parametrize(
    "log, lines",
    [
        ("one\ntwo\n", ["two"]),
        ("", ["it printed nothing"]),
        ("ValueError: bad\nfollows\n", ["ValueError: bad"]),
        ("x.py: error: a\nx.py: error: b\nend", ["a", "b"]),
        ("x.py: error: a\nend", ["x.py: error: a"]),
        ("sbatch: error: no\nsbatch: error: Invalid\nend", ["sbatch: error: Invalid"]),
    ],
)
def test_the_deciding_lines_say_why_a_command_failed(log, lines):
    assert deciding_lines(log) == lines


def test_progress_is_the_epoch_the_stage_or_the_utterance(tmp_path):
    log, train = tmp_path / "log", tmp_path / "train.log"
    log.write_text(
        "2026-11-27T12:00:00 (asr.sh:10:main) Stage 10: statistics\n"
        "Analysing: 10%| 3/30 [00:01<00:09, 3it/s]\rAnalysing: 20%| 6/30 [00:02<00:08,"
    )
    assert read_progress(log, None, 0) == "utterance 6/30, 00:08 to go"
    assert read_progress(log, train, 0) == ""
    train.write_text("x 2/9epoch started. Estimated time to finish: 3 seconds\n")
    assert read_progress(log, train, 0) == "epoch 2/9, 3 seconds to go"
    assert read_progress(log, train, time.time() + 60) == ""  # another training's


def test_without_a_terminal_a_step_has_a_line_every_five_seconds_at_the_most():
    output = io.StringIO()
    display = Display(Console(file=output, width=40))
    with display.at_work("training") as show:
        for n in range(100):
            show(f"epoch {n}/100 of a very long line, not wrapped")
    assert len(output.getvalue().splitlines()) == 1
    assert "\x1b" not in output.getvalue()


def test_a_terminal_shows_the_steps_at_work():
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True)
    with Display(console) as display, display.at_work("training reuse3") as show:
        show("epoch 3/15")
        time.sleep(0.5)
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.getvalue())
    assert "training reuse3 0:00:00 epoch 3/15" in shown
