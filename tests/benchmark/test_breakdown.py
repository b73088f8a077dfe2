# Copyright 2026 The espnet-reuse authors  SPDX-License-Identifier: Apache-2.0

"""The breakdown gives every operator's time to the right category."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from espnet_reuse.benchmark import peers
from espnet_reuse.benchmark.breakdown import CATEGORIES, measure_breakdown
from espnet_reuse.benchmark.peers import ESPNET, LIMIT, SDPA

CONFIG = peers.read_config(Path(__file__).with_name("tiny.yaml"))
SIZES = {"output_size": 16, "attention_heads": 8, "num_blocks": 2}
CONFIGS = {"conformer": CONFIG} | {
    name: peers.make_config(name, SIZES | conf, input_size=20)
    for name, conf in {
        "transformer": {},
        "branchformer": {},
        "e_branchformer": {"use_ffn": True},
    }.items()
}
# what the tests look for and an encoder does not have
LACKS = {"transformer": {"convolution"}, "branchformer": {"feed-forward"}}
Q, K, V = torch.randn(3, 2, 50, 16)  # heads, time, d_k
MAP = torch.rand(2, 50, 50)
X, WEIGHT, BIAS = torch.randn(50, 32), torch.randn(32, 32), torch.randn(32)
PROJECTIONS, SCORES, SOFTMAX, APPLY, FUSED, ATTENTION = CATEGORIES[:6]


class ScoresFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k):
        return q @ k.mT

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


OPERATORS = {
    "matmul of heads and batch": (lambda: Q[None] @ K[None].mT, SCORES),
    "bmm into memory": (lambda: torch.bmm(Q, K.mT, out=MAP.clone()), SCORES),
    "baddbmm": (lambda: torch.baddbmm(MAP, Q, K.mT), SCORES),
    "baddbmm in place": (lambda: MAP.clone().baddbmm_(Q, K.mT), SCORES),
    "mm of one head": (lambda: Q[0] @ K[0].T, SCORES),
    "addmm of one head": (lambda: torch.addmm(MAP[0], Q[0], K[0].T), SCORES),
    "an autograd function": (lambda: ScoresFunction.apply(Q, K), SCORES),
    "bmm over time": (lambda: torch.bmm(MAP, V), APPLY),
    "matmul over time": (lambda: MAP[None] @ V[None], APPLY),
    "softmax in place": (lambda: torch.softmax(MAP, -1, out=MAP.clone()), SOFTMAX),
    "linear": (lambda: linear(X, WEIGHT, BIAS), PROJECTIONS),
    "linear of a batch": (lambda: linear(X[None], WEIGHT), PROJECTIONS),
    "addmm of all heads": (lambda: torch.addmm(BIAS, X, WEIGHT), PROJECTIONS),
    "sdpa": (
        lambda: scaled_dot_product_attention(Q[None], K[None], V[None], MAP[None]),
        FUSED,
    ),
    "sdpa by parts": (
        lambda: torch.ops.aten._scaled_dot_product_attention_math(Q, K, V, MAP),
        FUSED,
    ),
    "a copy": (lambda: MAP.clone(), ATTENTION),
}


class Attention(torch.nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, x):
        self.operator()
        return x


@pytest.mark.parametrize(("operator", "category"), OPERATORS.values(), ids=OPERATORS)
def test_an_operator_of_attention_is_told_from_others(operator, category):
    encoder = torch.nn.ModuleDict({"self_attn": Attention(operator)})
    with torch.inference_mode():
        conf = {"output_size": 32, "attention_heads": 2}
        parts = measure_breakdown(encoder, lambda: encoder["self_attn"](X), conf, "cpu")
    assert parts.pop("total") == pytest.approx(sum(parts.values()))
    found = {name for name, ms in parts.items() if ms > 0}
    assert found == {category, ATTENTION, "rest"}  # Python's time is theirs


def breakdown_of(encoder, name):
    """Return the categories that cost time, of all that the encoder has."""
    listed = peers.list_peers(CONFIGS[encoder], [2])
    (peer,) = (peer for peer in listed if peer.name == name)
    module = peers.build_encoder(peer).eval()
    inputs = torch.randn(1, 400, 20), torch.tensor([400])
    with torch.inference_mode():
        parts = measure_breakdown(module, lambda: module(*inputs), peer.conf, "cpu")
    assert list(parts) == [*CATEGORIES, "total"]
    assert parts["total"] == pytest.approx(sum(parts[name] for name in CATEGORIES))
    found = {name for name, ms in parts.items() if ms > 0} - {"total"}
    others = set(CATEGORIES[6:])
    assert found & others == others - LACKS.get(encoder, set())
    assert not any("forward" in vars(m) for m in module.modules())
    return found - others


each_encoder = pytest.mark.parametrize("encoder", CONFIGS)
STEPS = {PROJECTIONS, SCORES, SOFTMAX, APPLY, ATTENTION}


@each_encoder
def test_the_eager_encoder_has_all_steps_of_attention_but_the_fused_one(encoder):
    assert breakdown_of(encoder, ESPNET) == STEPS


@each_encoder
def test_sdpa_has_the_fused_step_and_the_scores_of_positions(encoder):
    positions = {SCORES} if CONFIGS[encoder].relative_option else set()
    assert breakdown_of(encoder, SDPA) == {PROJECTIONS, FUSED, ATTENTION} | positions


@each_encoder
def test_reuse_has_scores_softmax_and_map(encoder):
    assert breakdown_of(encoder, "reuse, groups of 2") >= STEPS


@each_encoder
def test_the_limit_spends_nothing_on_attention(encoder):
    assert not breakdown_of(encoder, LIMIT) - {ATTENTION}
