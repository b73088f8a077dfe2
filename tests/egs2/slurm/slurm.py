#!/usr/bin/env python3

# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""A stand-in for SLURM: sbatch, squeue, scancel and srun, all nodes on this machine.

Linked under these names into a folder, which goes on PATH and holds the state:
calls.jsonl has every call and when jobs ended, jobs/<id> the process group of a job
that has not.
It speaks what ESPnet's utils/slurm.pl and `--dist_launcher slurm` need, and refuses
the rest, as well as partitions that it does not have.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PARTITIONS = ("standard", "a100")
LOGIN = ("HOME", "USER", "LOGNAME", "SHELL")
STATE = Path(__file__).parent if Path(__file__).is_symlink() else None


def record(program, **what):
    with open(STATE / "calls.jsonl", "a", encoding="utf-8") as f:
        f.write(json.dumps({"program": program, **what}) + "\n")


def exported(names):
    """Return what a job sees of the environment of its submission."""
    if names == "ALL":
        return dict(os.environ)
    return {n: os.environ[n] for n in (*LOGIN, *names.split(",")) if n in os.environ}


def sbatch(argv):
    """Start a batch script, or one process for each index of an array, and return."""
    parser = argparse.ArgumentParser(prog="sbatch", allow_abbrev=False)
    parser.add_argument("--export", default="ALL")
    parser.add_argument("--job-name", default="sbatch")
    parser.add_argument("-p", "--partition", default=PARTITIONS[0])
    parser.add_argument("-c", "--cpus-per-task", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--ntasks-per-node", type=int, default=1)
    parser.add_argument("--array")
    parser.add_argument("--gres")
    parser.add_argument("--mem-per-cpu")
    parser.add_argument("--time")
    parser.add_argument("--open-mode", choices=["append"], required=True)
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("-e", "--error", required=True)
    parser.add_argument("script")
    args = parser.parse_args(argv)
    if args.partition not in PARTITIONS:
        print(
            f"sbatch: error: invalid partition specified: {args.partition}",
            file=sys.stderr,
        )
        sys.exit(
            "sbatch: error: Batch job submission failed: Invalid partition name "
            "specified"
        )
    jobs = STATE / "jobs"
    jobs.mkdir(exist_ok=True)
    job_id = time.time_ns() // 1000
    env = exported(args.export) | {
        "SLURM_JOB_ID": str(job_id),
        "SLURM_JOB_NAME": args.job_name,
        "SLURM_JOB_NUM_NODES": str(args.nodes),
        "SLURM_NTASKS_PER_NODE": str(args.ntasks_per_node),
        "SLURM_CPUS_PER_TASK": str(args.cpus_per_task),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODELIST": "localhost",
    }
    record("sbatch", id=job_id, env=sorted(env), **vars(args))
    tasks = [{}]
    if args.array is not None:
        first, last = map(int, args.array.split("%")[0].split("-"))
        tasks = [{"SLURM_ARRAY_TASK_ID": str(n)} for n in range(first, last + 1)]
    (jobs / str(job_id)).touch()
    print(f"Submitted batch job {job_id}", flush=True)
    if os.fork():
        return 0
    # the job: a process of its own, that has no file of the submission's open
    os.setsid()
    (jobs / str(job_id)).write_text(str(os.getpid()))
    output = open(args.output, "a", encoding="utf-8")  # noqa: SIM115 (open to the end)
    os.closerange(output.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    os.closerange(3, output.fileno())
    started = [subprocess.Popen(["bash", args.script], env=env | t) for t in tasks]
    for process in started:
        process.wait()
    record("ended", id=job_id, at=time.time_ns() // 1000)
    (jobs / str(job_id)).unlink()
    return 0


def squeue(argv):
    """Tell by the exit status whether a job has not ended."""
    if not (STATE / "jobs" / argv[argv.index("-j") + 1]).exists():
        sys.exit("slurm_load_jobs error: Invalid job id specified")


def scancel(argv):
    """Kill a job."""
    record("scancel", id=int(argv[0]))
    job = STATE / "jobs" / argv[0]
    os.killpg(int(job.read_text()), signal.SIGTERM)
    job.unlink()


def srun(argv):
    """Run a command in a process for each task of the job, as with KillOnBadExit=1."""
    parser = argparse.ArgumentParser(prog="srun", allow_abbrev=False)
    parser.add_argument("--export", choices=["ALL"], required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    nodes = int(os.environ["SLURM_JOB_NUM_NODES"])
    per_node = int(os.environ["SLURM_NTASKS_PER_NODE"])
    running = [
        subprocess.Popen(
            args.command,
            env=os.environ
            | {
                "SLURM_PROCID": str(n),
                "SLURM_LOCALID": str(n % per_node),
                "SLURM_NODEID": str(n // per_node),
                "SLURM_NTASKS": str(nodes * per_node),
                "SLURM_STEP_NUM_NODES": str(nodes),
                "SLURM_STEP_NODELIST": "localhost",
            },
        )
        for n in range(nodes * per_node)
    ]
    while any(process.poll() is None for process in running):
        if any(process.poll() for process in running):
            for process in running:
                process.terminate()
        time.sleep(0.1)
    statuses = [process.returncode for process in running]
    job_id = int(os.environ["SLURM_JOB_ID"])
    record("srun", job=job_id, statuses=statuses, **vars(args))
    return max(map(abs, statuses))


if __name__ == "__main__":
    programs = {f.__name__: f for f in (sbatch, squeue, scancel, srun)}
    sys.exit(programs[Path(sys.argv[0]).name](sys.argv[1:]))
