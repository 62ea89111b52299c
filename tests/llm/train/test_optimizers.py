"""Optimizers against torch's, and against the formulas of their papers where torch has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm.model import make_model
from llm.settings import ModelSettings
from llm.train.objective import Objective
from llm.train.optimizers import (
    Lion,
    Muon,
    create_states,
    make_optimizer,
    orthogonalise,
    parameter_groups,
    states_by_name,
    states_of,
)
from llm.training_settings import OptimizerSettings

STEPS = 6


def objective_of(kind: str = "gpt", tied: bool = True) -> Objective:
    shape = {"layers": 2, "width": 24, "heads": 2, "hidden": 40, "context": 16, "biases": "all"}
    return Objective(
        make_model(ModelSettings.model_validate({"kind": kind, "tied": tied, **shape}), 50, 1), "fp32"
    )


def gradients_of(step: int, parameters: list[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=generator) for p in parameters]


def updated(optimizer: torch.optim.Optimizer, parameters: list[Tensor], rate: float = 1e-2) -> list[Tensor]:
    """The parameters after some steps."""
    for step in range(STEPS):
        for parameter, gradient in zip(parameters, gradients_of(step, parameters), strict=True):
            parameter.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = rate / (1 + step)
        optimizer.step()
    return [p.detach().clone() for p in parameters]


TORCH: dict[str, Any] = {
    "adamw": lambda params: torch.optim.AdamW(params, betas=(0.9, 0.95), weight_decay=0.1),
    "adam": lambda params: torch.optim.Adam(params, betas=(0.9, 0.95), weight_decay=0.1),
    "sgd": lambda params: torch.optim.SGD(params, momentum=0.95, nesterov=True, weight_decay=0.1),
}


@pytest.mark.parametrize("kind", TORCH)
def test_equal_to_torch(kind: str) -> None:
    """Also with states that were there before the first step, as checkpoints need them."""
    settings = OptimizerSettings.model_validate({"kind": kind, "vector_decay": 0.1})
    ours, theirs = objective_of(), objective_of()
    optimizer = make_optimizer(ours, settings)
    create_states(optimizer, [group["params"] for group in optimizer.param_groups])
    found = updated(optimizer, list(ours.parameters()))
    wanted = updated(TORCH[kind](theirs.parameters()), list(theirs.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_lion_is_algorithm_2_of_its_paper() -> None:
    rate, decay, beta1, beta2 = 1e-2, 0.1, 0.9, 0.99
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    ours = nn.Parameter(start.clone())
    optimizer = Lion(
        [{"params": [ours], "weight_decay": decay, "states": ("exp_avg",)}], rate, (beta1, beta2)
    )
    create_states(optimizer, [[ours]])
    found = updated(optimizer, [ours])[0]
    theta, m = start.numpy().astype(np.float64), np.zeros((5, 3))
    for step in range(STEPS):
        g = gradients_of(step, [start])[0].numpy().astype(np.float64)
        c = beta1 * m + (1 - beta1) * g
        theta = theta - rate / (1 + step) * (np.sign(c) + decay * theta)
        m = beta2 * m + (1 - beta2) * g
    np.testing.assert_allclose(found.numpy(), theta, rtol=1e-5, atol=1e-6)


def muon(matrix: nn.Parameter, dtype: torch.dtype, nesterov: bool = True) -> Muon:
    groups = [{"params": [matrix], "weight_decay": 0.1, "muon": True, "states": ("momentum_buffer",)}]
    optimizer = Muon(
        groups, 1e-2, 0.95, nesterov, (0.9, 0.95), 1e-8, lambda p, u: [(u, u.view(-1), 0)], dtype
    )
    create_states(optimizer, [[matrix]])
    return optimizer


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_is_torchs(shape: tuple[int, int], nesterov: bool) -> None:
    start = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    found = updated(muon(ours, torch.bfloat16, nesterov), [ours])[0]
    peer = torch.optim.Muon(
        [theirs], momentum=0.95, nesterov=nesterov, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    wanted = updated(peer, [theirs])[0]
    torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-3)
    assert (found - start).abs().mean() > 10 * (found - wanted).abs().mean(), "it hardly moved"


def test_a_matrix_becomes_about_orthogonal() -> None:
    """The polar factor U V^T, with singular values as far from 1 as the iteration leaves them."""
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(2))
    u, s, vh = torch.linalg.svd(orthogonalise(matrix, torch.float32), full_matrices=False)
    assert s.min() > 0.6 and s.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    polar = left @ right
    assert torch.nn.functional.cosine_similarity((u * s @ vh).view(-1), polar.view(-1), dim=0) > 0.97


@pytest.mark.parametrize("tied", [True, False])
def test_what_muon_moves(tied: bool) -> None:
    objective = objective_of("bert", tied)
    names = {id(p): name for name, p in objective.model.named_parameters()}
    groups = parameter_groups(objective, OptimizerSettings(kind="muon"))
    moved = {names[id(p)] for group in groups if group["muon"] for p in group["params"]}
    assert moved == {
        f"blocks.{i}.{part}.weight"
        for i in range(2)
        for part in ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")
    }
    assert sum(len(group["params"]) for group in groups) == len(names), "each parameter in one group"


def test_weight_decay_by_kind_of_parameter() -> None:
    settings = OptimizerSettings(weight_decay=0.1, embedding_decay=0.02, vector_decay=0.003)
    objective = objective_of()
    decay = {id(p): g["weight_decay"] for g in parameter_groups(objective, settings) for p in g["params"]}
    found = {name: decay[id(p)] for name, p in objective.model.named_parameters()}
    assert found["token_embed.weight"] == 0.02
    assert found["blocks.0.attention.qkv.weight"] == 0.1
    assert found["final_norm.weight"] == found["blocks.1.feed_forward.up.bias"] == 0.003
    assert len(parameter_groups(objective, OptimizerSettings())) == 2, "equal decays are one group"


def test_states() -> None:
    assert states_of(OptimizerSettings(kind="sgd", momentum=0.0), 2) == ()
    assert states_of(OptimizerSettings(kind="muon"), 2) == ("momentum_buffer",)
    assert states_of(OptimizerSettings(kind="muon"), 2, in_block=False) == ("exp_avg", "exp_avg_sq")
    objective = objective_of()
    optimizer = make_optimizer(objective, OptimizerSettings(kind="muon"))
    create_states(optimizer, [group["params"] for group in optimizer.param_groups])
    for name, parameter in objective.model.named_parameters():
        kept = {"weight", *optimizer.state[parameter]} - {"step"}
        assert kept == set(states_by_name(objective, OptimizerSettings(kind="muon"))[name]), name
