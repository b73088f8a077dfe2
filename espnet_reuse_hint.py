# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""Tell who loads a reuse model without `import espnet_reuse` what is missing.

PyTorch calls `install` when it is imported (entry point `torch.backends`). Nothing is
registered by that: encoders come from an import that a reader of the code can see. It
stands beside the package, whose import would register them.
"""

try:
    import wrapt
except ImportError:  # nothing here may keep PyTorch from being imported
    wrapt = None


def install() -> None:
    """Have ESPnet's choices explain the reuse encoders, once they are imported."""
    if wrapt is None:
        return
    # not the task: `import torch` may come from within its import
    wrapt.register_post_import_hook(
        explain_reuse_encoders, "espnet2.train.class_choices"
    )


def explain_reuse_encoders(class_choices) -> None:
    """Make ESPnet's choices name the import that a reuse encoder needs.

    Args:
        class_choices: The module `espnet2.train.class_choices`.
    """

    @wrapt.patch_function_wrapper(class_choices, "ClassChoices.get_class")
    def get_class_or_explain(get_class, choices, args, kwargs):
        try:
            return get_class(*args, **kwargs)
        except ValueError as e:
            name = str([*args, *kwargs.values()][0])
            if not name.endswith("_reuse"):
                raise
            raise ValueError(
                f"--{choices.name} {name} comes with the package espnet_reuse: "
                "`import espnet_reuse` before the model is built, or run the program "
                "with `python3 -m espnet_reuse.run`"
            ) from e
