# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""Options of encoders: what is said of them is what ESPnet's and ours do."""

import argparse
import pkgutil

import pytest
import torch
from table import Row, each
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from espnet_reuse.comparison.check_config import find_notes
from espnet_reuse.registry import ENCODERS

PARENTS = {path.split(".")[-2].removesuffix("_encoder"): path for path in ENCODERS}
TINY = {"output_size": 8, "attention_heads": 2, "num_blocks": 2, "dropout_rate": 0.0}
# absolute positions, where there is a choice
ABSOLUTE = {"pos_enc_layer_type": "abs_pos", "rel_pos_type": "latest"}


def encoder(name, **options):
    """Return a function that gives the options and builds it, with reuse or not."""
    units = {"cgmlp_linear_units" if "branch" in name else "linear_units": 16}
    if name != "transformer":
        options = {"rel_pos_type": "latest"} | options

    def make(reuse):
        path = PARENTS[name]
        torch.manual_seed(0)
        more = {"reuse_group_size": 2} if reuse else {}
        encoder_class = pkgutil.resolve_name(ENCODERS[path] if reuse else path)
        return encoder_class(input_size=20, **TINY | units | options | more)

    return lambda: (name, options, make)


BESIDE = "in a batch with a longer utterance"
SEVERAL = "to train in several processes, set unused_parameters: true"
LEGACY = {"rel_pos_type": "legacy"}
CONV1D = {"positionwise_layer_type": "conv1d", "positionwise_conv_kernel_size": 3}
LINEAR1D = CONV1D | {"positionwise_layer_type": "conv1d-linear"}
DEPTH = {"stochastic_depth_rate": 0.5}
DROP, BRANCH = {"layer_drop_rate": 0.5}, {"attn_branch_drop_rate": 0.5}
AVERAGES = {"merge_method": "learned_ave"}
CONFORMER = {
    "macaron": {"macaron_style": True},
    "no convolution": {"use_cnn_module": False},
    "dropped layers, without effect": DROP,
    "norms after": {"normalize_before": False},
    "concatenation": {"concat_after": True},
    "zero_triu": {"zero_triu": True},
    "absolute positions": ABSOLUTE | {"selfattention_layer_type": "selfattn"},
    "intermediate CTC": {"interctc_layer_idx": [1]},
    "conv2d6": {"input_layer": "conv2d6"},
}
TAKEN = [("conformer", *item) for item in CONFORMER.items()] + [
    ("transformer", "plain", {}),
    ("transformer", "norms after", {"normalize_before": False}),
    ("branchformer", "plain", {}),
    ("branchformer", "averages", AVERAGES),
    ("branchformer", "dropped attention, without effect", BRANCH),
    ("e_branchformer", "plain", {}),
    ("e_branchformer", "conv1d2", {"input_layer": "conv1d2"}),
    ("e_branchformer", "feed-forwards", {"use_ffn": True, "macaron_ffn": True}),
]
NOTED = [
    ("conformer", "legacy positions", LEGACY, BESIDE),
    ("branchformer", "legacy positions", LEGACY, BESIDE),
    ("e_branchformer", "legacy positions", LEGACY, BESIDE),
    ("conformer", "conv1d", CONV1D, BESIDE),
    ("transformer", "conv1d-linear", LINEAR1D, BESIDE),
    ("conformer", "stochastic depth", DEPTH, f"stochastic_depth_rate: {SEVERAL}"),
    ("branchformer", "stochastic depth", DEPTH, SEVERAL),
    (
        "branchformer",
        "dropped attention",
        BRANCH | AVERAGES,
        f"attn_branch_drop_rate: {SEVERAL}",
    ),
    ("e_branchformer", "dropped layers", DROP, f"layer_drop_rate: {SEVERAL}"),
]
TABLE = [
    Row(f"{name}, {tried}", encoder(name, **options), "taken")
    for name, tried, options in TAKEN
] + [
    Row(f"{name}, {tried}", encoder(name, **options), "noted", line)
    for name, tried, options, line in NOTED
]


@pytest.fixture(scope="module", autouse=True)
def process_group():
    """One process: that a parameter has no gradient is found there, too."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def encode(model, xs, lengths):
    """Return the output of an encoder without intermediate ones."""
    out, *_ = model(xs, torch.tensor(lengths))
    return out[0] if isinstance(out, tuple) else out


@torch.no_grad()
def depends_on_longer_ones(model):
    model = model.eval().double()
    for norm in model.modules():  # its running mean of nothing hides padding
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean += 0.1
    xs = torch.randn(2, 60, 20, dtype=torch.float64)
    together = encode(model, xs, [60, 33])
    alone = encode(model, xs[1:, :33], [33])
    return bool((together[1:, : alone.size(1)] - alone).abs().max() > 1e-6)


def trains_in_several_processes(model, unused_parameters):
    wrapped = DistributedDataParallel(
        model.train(), find_unused_parameters=unused_parameters
    )
    try:
        for _ in range(8):  # at a rate of 0.5 something is dropped in one of them
            encode(wrapped, torch.randn(2, 30, 20), [30, 30]).sum().backward()
    except RuntimeError as error:
        assert "Expected to have finished reduction" in str(error)
        return False
    return True


@each(TABLE)
def test_the_notes_are_what_encoders_do(row):
    name, options, make = row.make()
    for reuse in (False, True):
        name += "_reuse" if reuse else ""
        args = {"encoder": name, "encoder_conf": options, "unused_parameters": False}
        notes = find_notes(argparse.Namespace(**args), make(reuse))
        assert len(notes) == (row.outcome == "noted")
        assert row.line in "".join(notes)
        assert depends_on_longer_ones(make(reuse)) == (BESIDE in row.line)
        assert trains_in_several_processes(make(reuse), False) != (SEVERAL in row.line)
        assert trains_in_several_processes(make(reuse), True)
