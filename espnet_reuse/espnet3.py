# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""ESPnet's classes under names that ESPnet3's configs can give.

A process that builds a model from a config of ESPnet3, a Dask worker for example,
imports what the config names, and with these names the reuse encoders::

    task: espnet_reuse.espnet3.ASRTask                # in the training config
    model:
      _target_: espnet_reuse.espnet3.Speech2Text      # in the inference config
"""

import importlib

_MODULES = {
    "ASRTask": "espnet3.systems.esp2_asr.task",
    "Speech2Text": "espnet2.bin.asr_inference",
}


def __getattr__(name):
    """Import ESPnet's class when it is asked for: training needs no decoder."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(_MODULES[name]), name)
