# Copyright 2026 The espnet-reuse authors
#  Apache 2.0  (http://www.apache.org/licenses/LICENSE-2.0)

"""The breakdown gives every operator's time to the right category."""

from pathlib import Path

import pytest
import torch

from espnet_reuse.benchmark.breakdown import (
    APPLY,
    ATTENTION,
    CATEGORIES,
    CONVOLUTION,
    FEED_FORWARD,
    FUSED,
    PROJECTIONS,
    REST,
    SCORES,
    SOFTMAX,
    SUBSAMPLING,
    measure_breakdown,
)
from espnet_reuse.benchmark.peers import (
    EAGER,
    LIMIT,
    SDPA,
    build_encoder,
    list_peers,
    make_config,
    read_config,
)

CONFIG = read_config(Path(__file__).with_name("tiny.yaml"))
SIZES = {"output_size": 16, "attention_heads": 8, "num_blocks": 2}
CONFIGS = {"conformer": CONFIG} | {
    name: make_config(name, SIZES | conf, CONFIG.input_size)
    for name, conf in {
        "transformer": {},
        "branchformer": {},
        "e_branchformer": {"use_ffn": True},
    }.items()
}
# what the tests look for and an encoder does not have
LACKS = {"transformer": {CONVOLUTION}, "branchformer": {FEED_FORWARD}}
SIZE, HEADS, D_K, TIME = 32, 2, 16, 50
Q, K, V = (torch.randn(HEADS, TIME, D_K) for _ in range(3))
MAP = torch.rand(HEADS, TIME, TIME)
X, WEIGHT, BIAS = torch.randn(TIME, SIZE), torch.randn(SIZE, SIZE), torch.randn(SIZE)


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
    "linear": (lambda: torch.nn.functional.linear(X, WEIGHT, BIAS), PROJECTIONS),
    "linear of a batch": (
        lambda: torch.nn.functional.linear(X[None], WEIGHT),
        PROJECTIONS,
    ),
    "addmm of all heads": (lambda: torch.addmm(BIAS, X, WEIGHT), PROJECTIONS),
    "sdpa": (
        lambda: torch.nn.functional.scaled_dot_product_attention(
            Q[None], K[None], V[None], MAP[None]
        ),
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
        parts = measure_breakdown(
            encoder, lambda: encoder["self_attn"](X), SIZE, HEADS, "cpu"
        )
    assert parts.pop("total") == pytest.approx(sum(parts.values()))
    found = {name for name, ms in parts.items() if ms > 0}
    assert found == {category, ATTENTION, REST}  # Python's time is theirs


def breakdown_of(encoder, name):
    """Return the categories that cost time, of all that the encoder has."""
    (peer,) = (p for p in list_peers(CONFIGS[encoder], [2]) if p.name == name)
    module = build_encoder(peer, CONFIG.input_size).eval()
    inputs = torch.randn(1, 400, 20), torch.tensor([400])
    with torch.inference_mode():
        parts = measure_breakdown(module, lambda: module(*inputs), 16, 8, "cpu")
    assert list(parts) == [*CATEGORIES, "total"]
    assert parts["total"] == pytest.approx(sum(parts[name] for name in CATEGORIES))
    found = {name for name, ms in parts.items() if ms > 0} - {"total"}
    others = {CONVOLUTION, FEED_FORWARD, SUBSAMPLING, REST}
    assert found & others == others - LACKS.get(encoder, set())
    assert not any(m._forward_hooks for m in module.modules())
    return found - others


each_encoder = pytest.mark.parametrize("encoder", CONFIGS)
STEPS = {PROJECTIONS, SCORES, SOFTMAX, APPLY, ATTENTION}


@each_encoder
def test_the_eager_encoder_has_all_steps_of_attention_but_the_fused_one(encoder):
    assert breakdown_of(encoder, EAGER) == STEPS


@each_encoder
def test_sdpa_has_the_fused_step_and_the_scores_of_positions(encoder):
    positions = {SCORES} if CONFIGS[encoder].has_relative_positions else set()
    assert breakdown_of(encoder, SDPA) == {PROJECTIONS, FUSED, ATTENTION} | positions


@each_encoder
def test_reuse_has_scores_softmax_and_map(encoder):
    assert breakdown_of(encoder, "reuse, groups of 2") >= STEPS


@each_encoder
def test_the_limit_spends_nothing_on_attention(encoder):
    assert not breakdown_of(encoder, LIMIT) - {ATTENTION}
