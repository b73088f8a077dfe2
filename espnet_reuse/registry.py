# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Registration of the reuse encoders wherever ESPnet offers their parents."""

import contextlib
import functools
import importlib
import io
import logging
import sys
from types import ModuleType

import wrapt

# Parent in ESPnet: encoder that reuses attention maps.
ENCODERS = {
    f"espnet2.asr.encoder.{module}_encoder.{name}Encoder": (
        f"espnet_reuse.asr.encoder.{module}_reuse_encoder.{name}ReuseEncoder"
    )
    for module, name in {
        "conformer": "Conformer",
        "transformer": "Transformer",
        "branchformer": "Branchformer",
        "e_branchformer": "EBranchformer",
    }.items()
}

warn_once = functools.cache(logging.warning)


def path_of(cls: type) -> str:
    """Return the path of a class, as in `ENCODERS`."""
    return f"{cls.__module__}.{cls.__qualname__}"


def register_encoders(choices) -> None:
    """Add to an ESPnet option the reuse encoders of the encoders that it offers.

    Where there is a `conformer`, there will be a `conformer_reuse`. Names that are
    there already stay as they are: the day ESPnet brings them.

    Args:
        choices (espnet2.train.class_choices.ClassChoices): An option of a task, such
            as `encoder_choices` of `espnet2.tasks.asr`.
    """
    for name, parent in list(choices.classes.items()):
        path = ENCODERS.get(path_of(parent))
        if path is None:
            continue
        module_name, class_name = path.rsplit(".", 1)
        name += "_reuse"
        if name not in choices.classes:
            module = importlib.import_module(module_name)
            choices.classes[name] = getattr(module, class_name)
        elif choices.classes[name].__module__ != module_name:
            warn_once(
                "This ESPnet has its own reuse encoders: espnet_reuse does not replace "
                "encoders that have the same name"
            )


def register_in_tasks(class_choices: ModuleType) -> None:
    """Register the encoders in the tasks, also in those that are imported later.

    A task makes its options when it is imported: nothing is imported for this. The
    argument is the module `espnet2.train.class_choices`.
    """
    for module in list(sys.modules.values()):
        for value in list(getattr(module, "__dict__", {}).values()):
            if issubclass(type(value), class_choices.ClassChoices):
                register_encoders(value)

    @wrapt.patch_function_wrapper(class_choices, "ClassChoices.__init__")
    def init_and_register(init, choices, args, kwargs):
        init(*args, **kwargs)
        register_encoders(choices)


def import_attention_quietly(package: ModuleType) -> None:
    """Import ESPnet's attention, without its line that flash_attn is not installed.

    The argument is the package `espnet2.legacy.nets.pytorch_backend`.
    """
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        importlib.import_module(f"{package.__name__}.transformer.attention")
    lines = printed.getvalue().splitlines(keepends=True)
    sys.stderr.writelines(x for x in lines if "No module named 'flash_attn'" not in x)
