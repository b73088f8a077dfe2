# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Registration of the reuse encoders in ESPnet's encoder choices."""

import importlib
import logging
from types import ModuleType

ENCODERS = {
    "conformer_reuse": (
        "espnet_reuse.asr.encoder.conformer_reuse_encoder.ConformerReuseEncoder"
    ),
}


def register_encoders(task: ModuleType) -> None:
    """Add the reuse encoders to the choices of an ESPnet task.

    Names that the task has already stay as they are: the day ESPnet brings them.

    Args:
        task: Module with an `encoder_choices`, such as `espnet2.tasks.asr`.

    Raises:
        TypeError: An encoder is not an ESPnet encoder.
    """
    choices = task.encoder_choices
    for name, path in ENCODERS.items():
        module_name, class_name = path.rsplit(".", 1)
        if name in choices.classes:
            logging.warning(
                f"ESPnet has an encoder {name!r} of its own: {class_name} of "
                "espnet_reuse is not registered"
            )
            continue
        encoder_class = getattr(importlib.import_module(module_name), class_name)
        # ClassChoices checks this only when it is built
        if not issubclass(encoder_class, choices.base_type):
            raise TypeError(f"{path} is not a {choices.base_type.__name__}")
        choices.classes[name] = encoder_class
