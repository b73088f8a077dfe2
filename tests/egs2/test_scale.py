# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The recipes on a cluster, in several processes and with Lightning, as ESPnet does it.

slurm/slurm.py stands in for SLURM: the jobs run on this machine, with what `sbatch` is
told to export of the environment and nothing else.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

SLURM = Path(__file__).parent / "slurm/slurm.py"
REUSE = "conf/train_asr_conformer_reuse.yaml"
# a batch needs an utterance for each process, and train_dev has one in all
SETS = ("--test_sets", "test", "--valid_set", "train_nodev_eval", "--nj", "2")
ONE_STEP = ("--asr_args", "--max_epoch 1 --num_iters_per_epoch 1")
LOG_DIRS = (
    *(f"dump/raw/{name}/logs" for name in ("org/train_nodev", "org/train_nodev_eval")),
    "dump/raw/test/logs",
    "exp/asr_stats_raw_en_bpe30/logdir",
)
# what a job has without an --export; SLURM_* comes from SLURM
LOGIN = {"HOME", "USER", "LOGNAME", "SHELL"}

pytestmark = pytest.mark.slow


class Cluster:
    """A repository whose mini_an4 recipe is set up for a cluster, as by a user."""

    def __init__(self, repository, slurm):
        self.repository, self.slurm, self.recipe = repository, slurm, repository.recipe
        for program in ("sbatch", "squeue", "scancel", "srun"):
            (slurm / program).symlink_to(SLURM)
        self.edit("cmd.sh", {"cmd_backend='local'": "cmd_backend='slurm'"})

    def edit(self, name, replacements):
        """Change a file that the set-up has copied from ESPnet."""
        path = self.recipe / name
        text = path.read_text()
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    def popen(self, *command, **kwargs):
        env = os.environ | {"PATH": f"{self.slurm}:{os.environ['PATH']}"}
        env |= {"ESPNET_REUSE_IMPL": "naive", **kwargs.pop("env", {})}
        return self.repository.popen(
            *command, env=env, start_new_session=True, **kwargs
        )

    def run(self, *command):
        process = self.popen(*command)
        output, _ = process.communicate()
        return process.returncode, output

    def calls(self, program, **that_has):
        """Return the calls of a program whose options have these values."""
        calls = map(json.loads, (self.slurm / "calls.jsonl").read_text().splitlines())
        return [
            call
            for call in calls
            if call["program"] == program and that_has.items() <= call.items()
        ]


def exp_of(cluster, model):
    (path,) = cluster.recipe.glob(f"exp/asr_train_asr_conformer_{model}*")
    return path


def jobs_logging_to(cluster, name):
    jobs = cluster.calls("sbatch")
    jobs = [job for job in jobs if Path(job["output"]).name == name]
    assert jobs
    return jobs


def training_job(cluster, model):
    """Return the `sbatch` of a model's training."""
    name = f"{exp_of(cluster, model).relative_to(cluster.recipe)}/train.log"
    (job,) = cluster.calls("sbatch", job_name=name)
    return job


def first_epoch(asr_exp):
    states = torch.load(asr_exp / "checkpoint.pth", weights_only=True)
    return states["reporter"]["stats"][1]["train"]


def assert_decoded(decode_dir):
    lines = (decode_dir / "test/text").read_text().splitlines()
    assert {line.split()[0] for line in lines} == {"fcaw-cen8-b", "mmxg-cen8-b"}


@pytest.fixture(scope="module")
def cluster(copy_repository, tmp_path_factory):
    return Cluster(copy_repository(), tmp_path_factory.mktemp("slurm"))


@pytest.fixture(scope="module")
def trained_on_cluster(cluster):
    """The cluster with a model trained, decoded and scored through `sbatch`.

    While it decoded, run.sh was stopped once.
    """
    cluster.edit("conf/slurm.conf", {"-p cpu": "-p standard", "-p gpu": "-p a100"})
    for name in LOG_DIRS:  # else slurm.pl makes them and waits 5 s for each
        (cluster.recipe / name / "q").mkdir(parents=True, exist_ok=True)
    command = ("./run.sh", "--models", "reuse2", "--stop_stage", "5", *SETS, *ONE_STEP)
    process = cluster.popen(*command)
    while process.poll() is None:
        time.sleep(0.5)
        if list(cluster.recipe.glob("exp/*/decode_asr/*/logdir/asr_inference.1.log")):
            process.send_signal(signal.SIGTERM)
            break
    cluster.output, _ = process.communicate()
    cluster.status_of_stopped = process.returncode
    status, output = cluster.run(*command)
    assert status == 0, cluster.output + output
    assert "training reuse2: done already" in output
    return cluster


@pytest.fixture(scope="module")
def started(trained_on_cluster):
    """Runs that go on side by side, since they mostly wait: {name: process}."""
    cluster = trained_on_cluster
    config = yaml.safe_load((cluster.recipe / REUSE).read_text())
    config["encoder_conf"]["reuse_group_size"] = 2
    tuning = cluster.recipe / "conf/tuning"
    tuning.mkdir()  # reuse2 under another name:
    (tuning / "train_asr_conformer_two.yaml").write_text(yaml.safe_dump(config))
    # Lightning counts epochs from 0: ESPnet seeds this option's batches with -1
    del config["num_iters_per_epoch"]
    config["lightning_conf"] = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "best_model_criterion": [["train/loss", "min", 1]],
    }
    lightning = tuning / "train_asr_conformer_lightning.yaml"
    lightning.write_text(yaml.safe_dump(config))
    cluster.edit(
        "conf/slurm.conf",
        {
            "--export=PATH": "--export=PATH,TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
            "default gpu=0": "option num_tasks=* --ntasks-per-node $0\n"
            "option num_tasks=0 --ntasks-per-node 1\n"
            "default gpu=0",
        },
    )
    processes = {
        "two": cluster.popen(
            *("./run.sh", "--models", "two", *SETS, *ONE_STEP),
            *("--stage", "3", "--stop_stage", "4", "--num_nodes", "2", "--ngpu", "0"),
        ),
        "lightning": cluster.popen(
            *("./run.sh", *SETS, "--stage", "11", "--stop_stage", "12"),
            *("--asr_config", lightning.relative_to(cluster.recipe)),
            *("--use_lightning", "true", "--asr_args", "--lightning_conf devices=1"),
            *("--inference_asr_model", "train.loss.ave_1best.pth"),
            cwd=cluster.recipe,
            # else PyTorch refuses the arguments that Lightning saves with the weights
            env={"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        ),
    }
    yield processes
    for process in processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def test_a_job_that_the_cluster_refuses_ends_in_one_line_that_says_why(cluster):
    """conf/slurm.conf as it comes names partitions that this cluster has not."""
    status, output = cluster.run(
        *("./run.sh", "--models", "reuse2", "--stop_stage", "5", *SETS, *ONE_STEP)
    )
    last = output.strip().splitlines()[-1]
    assert status != 0
    assert last.startswith("run.sh: error: Stage 1: formatting of the data failed: ")
    assert "Invalid partition name specified (log: egs2/mini_an4/asr1/exp/log" in last


def test_slurm_runs_data_statistics_training_and_decoding(trained_on_cluster):
    cluster = trained_on_cluster
    asr_exp = exp_of(cluster, "reuse2")
    assert {job["partition"] for job in cluster.calls("sbatch")} == {"standard"}
    for name in ("format_wav_scp.log", "stats.log", "asr_inference.log"):
        for job in jobs_logging_to(cluster, name):
            assert job["array"] == "1-2", job["script"]
    job = training_job(cluster, "reuse2")
    assert (job["array"], job["nodes"], job["gres"]) == (None, 1, None)
    assert "Stage 3: training reuse2: epoch 1/1" in cluster.output
    assert_decoded(asr_exp / "decode_asr")
    for score in ("wer", "cer", "ter"):
        assert (asr_exp / f"decode_asr/test/score_{score}/result.txt").is_file()


def test_jobs_need_nothing_of_the_environment_but_path(trained_on_cluster):
    """ESPnet's conf/slurm.conf exports PATH alone."""
    for job in trained_on_cluster.calls("sbatch"):
        others = {name for name in job["env"] if not name.startswith("SLURM_")}
        assert others - LOGIN == {"PATH"}, job["script"]


def test_stopping_run_sh_cancels_its_job(trained_on_cluster):
    assert trained_on_cluster.status_of_stopped == 130
    first, second, best_path = jobs_logging_to(trained_on_cluster, "asr_inference.log")
    assert Path(first["output"]) == Path(second["output"]) != Path(best_path["output"])
    assert trained_on_cluster.calls("scancel") == [
        {"program": "scancel", "id": first["id"]}
    ]


def test_models_side_by_side_wait_for_the_cluster_at_once(trained_on_cluster):
    cluster = trained_on_cluster
    status, output = cluster.run(
        *("./run.sh", "--models", "reuse3 reuse6", "--jobs", "2", *SETS, *ONE_STEP),
        *("--stage", "3", "--stop_stage", "3"),
    )
    assert status == 0, output
    jobs = [training_job(cluster, model)["id"] for model in ("reuse3", "reuse6")]
    ends = [call["at"] for job in jobs for call in cluster.calls("ended", id=job)]
    assert max(jobs) < min(ends)  # a job's number is when it was submitted


def test_two_nodes_train_one_model(trained_on_cluster, started):
    cluster = trained_on_cluster
    output, _ = started["two"].communicate()
    assert started["two"].returncode == 0, output
    asr_exp = exp_of(cluster, "two")
    job = training_job(cluster, "two")
    assert (job["nodes"], job["cpus_per_task"]) == (2, 1)
    (step,) = cluster.calls("srun", job=job["id"])
    options = " ".join(step["command"])
    assert "-m espnet_reuse.run -m espnet2.bin.asr_train" in options
    assert "--dist_launcher slurm" in options and "--dist_backend gloo" in options
    # a process that had not found the encoder would have ended with 2
    assert step["statuses"] == [0, 0]
    log = (asr_exp / "train.log").read_text()
    assert ":0/2]" in log and "Layers per attention map: [2, 2, 2]" in log
    assert_decoded(asr_exp / "decode_asr")
    # The batch of the step is the same, in halves. What differs is that each process
    # normalises with its own half's statistics (batch normalisation). Gradients that
    # were added up over the processes instead of averaged would have twice the norm.
    one, two = (first_epoch(exp_of(cluster, name)) for name in ("reuse2", "two"))
    assert two["loss"] == pytest.approx(one["loss"], rel=0.02)
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)


def test_lightning_trains_a_model_that_decodes(trained_on_cluster, started):
    cluster = trained_on_cluster
    output, _ = started["lightning"].communicate()
    assert started["lightning"].returncode == 0, output
    asr_exp = exp_of(cluster, "lightning")
    (step,) = cluster.calls("srun", job=training_job(cluster, "lightning")["id"])
    options = " ".join(step["command"])
    assert "-m espnet_reuse.run -m espnet2.bin.lightning_train" in options
    states = torch.load(asr_exp / "train.loss.ave_1best.pth", weights_only=True)
    queries = {n for n in range(6) for k in states if f".{n}.self_attn.linear_q" in k}
    assert queries == {0, 2, 4}
    (decode_dir,) = asr_exp.glob("decode_asr*")
    assert_decoded(decode_dir)
