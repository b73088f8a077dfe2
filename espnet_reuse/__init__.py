# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Attention map reuse for ESPnet: importing this registers the reuse encoders."""

from importlib.util import find_spec

# Where neither is, there is no ESPnet to extend: exported files run without it.
if find_spec("wrapt") or find_spec("espnet2"):
    import wrapt

    from espnet_reuse.registry import import_attention_quietly, register_in_tasks

    # Now, if a task of ESPnet is imported already, or as soon as one is: commands that
    # build no model do not wait for it.
    wrapt.register_post_import_hook(register_in_tasks, "espnet2.train.class_choices")
    wrapt.register_post_import_hook(
        import_attention_quietly, "espnet2.legacy.nets.pytorch_backend"
    )
