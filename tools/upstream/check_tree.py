# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""What check_patches.sh asks of a patched ESPnet, and of ESPnet with espnet_reuse.

Usage:
    check_tree.py configs CONFIG...
    check_tree.py tasks PACKAGE
    check_tree.py encode OUT PACKAGE [CONFIG MODEL]...
    WHOLE_FILES="FILE..." EVERY=N pytest -p check_tree
"""

import importlib
import logging.handlers
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch


def check_configs(*configs):
    """Have ESPnet2's asr_train, or ESPnet3, build the models of configs."""
    with tempfile.TemporaryDirectory() as folder:
        for config in configs:
            run = dry_run if config.startswith("egs2/") else build_by_espnet3
            run(config, Path(folder))


def dry_run(config, folder):
    """Print the config and build the model, as ESPnet's CI does."""
    from espnet2.bin import asr_train

    tokens = folder / "tokens.txt"
    tokens.write_text("<blank>\n<unk>\na\n<sos/eos>\n", "utf-8")
    try:
        asr_train.main(["--config", config, "--print_config"])
    except SystemExit as e:
        assert e.code == 0
    asr_train.main(
        ["--config", config, "--iterator_type", "none", "--dry_run", "true"]
        + ["--output_dir", str(folder / config), "--token_list", str(tokens)]
    )


def build_by_espnet3(config, folder):
    """Build the model, without memory for it."""
    from espnet3.systems.base.training import _instantiate_model
    from espnet3.utils.config_utils import load_and_merge_config
    from omegaconf import OmegaConf

    config = load_and_merge_config(
        Path(config), "training.yaml", "egs3.TEMPLATE.esp2_asr", resolve=False
    )
    config.recipe_dir = str(folder)
    OmegaConf.resolve(config)
    tokens, stats = config.model.token_list, config.model.normalize_conf.stats_file
    for made in (tokens, stats):
        Path(made).parent.mkdir(parents=True, exist_ok=True)
    Path(tokens).write_text("\n".join(map(str, range(5000))), "utf-8")
    np.savez(stats, count=2, sum=np.zeros(80), sum_square=np.ones(80))
    with torch.device("meta"):
        encoder = _instantiate_model(config).encoder
    assert type(encoder).__module__.startswith("espnet2.asr.encoder.")
    assert type(encoder).__name__.endswith("ReuseEncoder")


def check_tasks(package):
    """Check that all tasks offer the encoders of a package, espnet2 or espnet_reuse.

    Looks at every option of every task, before and after `import espnet_reuse`.
    """
    import espnet2
    from espnet2.train.class_choices import ClassChoices

    files = sorted(Path(espnet2.__file__).parent.glob("tasks/*.py"))
    names = [f"espnet2.tasks.{path.stem}" for path in files]
    options = {
        choices: choices.choices()
        for name in [*names, "espnet3.systems.esp2_asr.task"]
        for choices in vars(importlib.import_module(name)).values()
        if isinstance(choices, ClassChoices)
    }
    assert "espnet_reuse" not in sys.modules
    handler = logging.handlers.BufferingHandler(capacity=1000)
    logging.getLogger().addHandler(handler)

    from espnet_reuse.registry import ENCODERS

    entries = 0
    for choices, before in options.items():
        assert sorted(map(str, choices.choices())) == sorted(map(str, before))
        for parent, encoder in list(choices.classes.items()):
            path = ENCODERS.get(f"{encoder.__module__}.{encoder.__qualname__}")
            if path:
                module = path.rpartition(".")[0].replace("espnet_reuse", package)
                assert choices.get_class(f"{parent}_reuse").__module__ == module
                entries += 1
    messages = [record.getMessage() for record in handler.buffer]
    said = [message for message in messages if "espnet_reuse" in message]
    print(entries, "entries", *said, sep="\n")
    # what ESPnet has itself is not registered, and said once
    assert entries and len(said) == (package == "espnet2")


def encode(out, package, *models):
    """Write what models encode of noise; their encoder is of `package`."""
    from espnet2.tasks.asr import ASRTask

    outputs = []
    for config, path in zip(models[::2], models[1::2], strict=True):
        model, _ = ASRTask.build_model_from_file(config, path, "cpu")
        assert type(model.encoder).__module__.split(".")[0] == package
        torch.manual_seed(0)
        speech, lengths = torch.randn(2, 32000), torch.tensor([32000, 20000])
        with torch.inference_mode():
            outputs.append(model.eval().encode(speech, lengths)[0].numpy())
    assert all(np.isfinite(x).all() and x.std() > 0 for x in outputs)
    Path(out).write_bytes(b"".join(x.tobytes() for x in outputs))


def pytest_collection_modifyitems(items):
    """Keep every test of WHOLE_FILES, and of the others one in EVERY."""
    whole = {Path(name).resolve() for name in os.environ["WHOLE_FILES"].split()}
    others = [item for item in items if item.path not in whole]
    chosen = set(others[:: int(os.environ["EVERY"])])
    items[:] = [item for item in items if item in chosen or item.path in whole]


if __name__ == "__main__":
    actions = {"configs": check_configs, "tasks": check_tasks, "encode": encode}
    actions[sys.argv[1]](*sys.argv[2:])
