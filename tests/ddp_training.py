# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Train with ESPnet's trainer in two CPU processes, and tell each one's losses.

Run by test_run_sh.py through espnet_reuse.run, with the options of asr_train. ESPnet
starts its multi-GPU workers in the same way.
"""

import json
import sys
from pathlib import Path

import torch.multiprocessing
from espnet2.tasks.asr import ASRTask
from espnet2.train.distributed_utils import free_port
from espnet2.train.trainer import Trainer

WORLD_SIZE = 2


class TellingTrainer(Trainer):
    """ESPnet's trainer, which writes down the losses of this process."""

    @classmethod
    def run(cls, model, trainer_options, distributed_option, **kwargs):
        super().run(
            model=model,
            trainer_options=trainer_options,
            distributed_option=distributed_option,
            **kwargs,
        )
        told = {
            "losses": cls.losses,
            "parameters": float(
                sum(p.double().abs().sum() for p in model.parameters())
            ),
            "world_size": torch.distributed.get_world_size(),
        }
        name = f"rank{distributed_option.dist_rank}.json"
        Path(trainer_options.output_dir).with_name(name).write_text(json.dumps(told))

    @classmethod
    def train_one_epoch(cls, reporter, **kwargs):
        result = super().train_one_epoch(reporter=reporter, **kwargs)
        cls.losses = [float(loss.value) for loss in reporter.stats["loss"]]
        return result


def work(rank, args):
    args.dist_rank = args.local_rank = rank
    ASRTask.trainer = TellingTrainer
    ASRTask.main_worker(args)


if __name__ == "__main__":
    args = ASRTask.get_parser().parse_args(sys.argv[1:])
    args.version = "test"
    args.distributed = True
    args.ngpu = 0
    args.dist_backend = "gloo"
    args.dist_world_size = WORLD_SIZE
    args.dist_master_addr = "localhost"
    args.dist_master_port = free_port()
    torch.multiprocessing.spawn(work, (args,), nprocs=WORLD_SIZE)
