"""Attention against its formula, with every switch; documents of a row that do not see each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from llm.model import attention, make_model
from llm.model.attention import Attention, Sight, seen
from llm.model.positions import alibi_slopes, rotary_table, rotate
from llm.model.transformer import places_in_documents, runs_of
from llm.settings import ModelSettings

BASE = ModelSettings(layers=2, width=24, heads=4, context=32)


def settings(**changes: Any) -> ModelSettings:
    return ModelSettings.model_validate(BASE.model_dump() | changes)


def by_hand(attention: Attention, x: Tensor, shape: ModelSettings) -> Tensor:
    """softmax(Q K^T / sqrt(K) + bias) V, each head and each pair of tokens written out."""
    batch, length, _ = x.shape
    size, heads, groups = shape.head_width, shape.heads, shape.groups
    qkv = attention.qkv(x)
    q = qkv[..., : heads * size].view(batch, length, heads, size)
    k = qkv[..., heads * size : (heads + groups) * size].view(batch, length, groups, size)
    v = qkv[..., (heads + groups) * size :].view(batch, length, groups, size)
    if attention.q_norm is not None and attention.k_norm is not None:
        q, k = (
            t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
            for t, norm in ((q, attention.q_norm), (k, attention.k_norm))
        )
    outputs = []
    for h in range(heads):
        g = h * groups // heads
        a, b, c = q[:, :, h], k[:, :, g], v[:, :, g]
        if shape.position == "rotary":
            table = rotary_table(length, size, shape.rotary)
            a, b = rotate(a, *table), rotate(b, *table)
        scores = a @ b.transpose(1, 2) / math.sqrt(size)
        for i in range(length):
            for j in range(length):
                if shape.position == "alibi":
                    scores[:, i, j] -= alibi_slopes(heads)[h] * abs(i - j)
                hidden = shape.causal and j > i
                if shape.window is not None:
                    far = i - j >= shape.window if shape.causal else abs(i - j) > shape.window // 2
                    hidden = hidden or far
                if hidden:
                    scores[:, i, j] = -torch.inf
        outputs.append(scores.softmax(-1) @ c)
    return attention.out(torch.cat(outputs, -1))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "none"},
        {"kv_heads": 1},
        {"kv_heads": 2, "qk_norm": True, "biases": "attention"},
        {"head_size": 10},
        {"window": 3},
        {"position": "alibi"},
        {"position": "alibi", "window": 4, "kv_heads": 2},
        {"kind": "bert"},
        {"kind": "bert", "window": 4, "position": "rotary"},
        {"kind": "bert", "position": "alibi"},
        {"rotary": {"base": 100.0, "scaling": "linear", "factor": 2.0}},
    ],
)
def test_attention_is_the_formula(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    shape = settings(**changes)
    model = make_model(shape, 50)
    attention, x = model.blocks[1].attention, torch.randn(2, 9, 24)
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    there = torch.arange(9)
    sight = model._sight(there, there, there, None, x)
    torch.testing.assert_close(
        attention(x, sight, shape.is_global(1)), by_hand(attention, x, shape), rtol=1e-4, atol=1e-5
    )


def test_layers_with_and_without_a_window() -> None:
    """global_every 3: layers 0, 3, .. see everything; the others no further than the window."""
    shape = settings(layers=4, window=2, global_every=3)
    assert [shape.is_global(layer) for layer in range(4)] == [True, False, False, True]
    assert [settings(window=2).is_global(layer) for layer in range(2)] == [False, False]
    model = make_model(settings(layers=1, window=2), 50)
    ids = torch.randint(0, 50, (1, 10))
    changed = ids.clone()
    changed[0, 3] = (ids[0, 3] + 1) % 50
    moved = (model(ids) - model(changed)).abs().amax(-1)[0] > 1e-7
    assert moved.tolist() == [i in (3, 4) for i in range(10)]


def test_a_position_in_attention_tells_orders_apart() -> None:
    """Without positions a bidirectional model gives swapped tokens swapped states; with them it does not."""
    ids = torch.tensor([[5, 6, 7, 8]])
    swapped = ids[:, [1, 0, 2, 3]]
    for position in ("none", "rotary", "alibi", "learned", "sinusoidal"):
        model = make_model(settings(kind="bert", position=position, init_std=0.2), 50)
        a, b = model.hidden(ids), model.hidden(swapped)[:, [1, 0, 2, 3]]
        assert torch.allclose(a, b, atol=1e-5) == (position == "none"), position


LENGTHS = (7, 1, 10, 5)
CONFINED = [
    {},
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"position": "alibi"},
    {"window": 3, "global_every": 2},
    {"kv_heads": 2, "qk_norm": True},
    {"kind": "bert"},
    {"kind": "bert", "window": 4, "position": "rotary"},
]


def packed() -> tuple[Tensor, Tensor]:
    documents = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    rows = torch.stack((documents, documents.flip(0)))
    return torch.randint(0, 50, rows.shape, generator=torch.Generator().manual_seed(0)), rows


@pytest.mark.parametrize("changes", CONFINED)
def test_a_confined_document_is_as_if_alone(changes: dict[str, Any]) -> None:
    """Its logits in a packed row equal those of the document alone."""
    model = make_model(settings(**changes, init_std=0.2), 50)
    ids, documents = packed()
    found = model(ids, documents)
    for row in range(2):
        for number in range(len(LENGTHS)):
            own = documents[row] == number
            torch.testing.assert_close(found[row, own], model(ids[row : row + 1, own])[0], rtol=0, atol=1e-5)
    assert not torch.allclose(found, model(ids), atol=1e-3), "unconfined, they do see each other"


@pytest.mark.parametrize("changes", CONFINED)
def test_no_token_of_another_document_changes_a_confined_one(changes: dict[str, Any]) -> None:
    model = make_model(settings(**changes, init_std=0.2), 50)
    ids, documents = packed()
    before = model(ids, documents)
    for number in range(len(LENGTHS)):
        others = documents != number
        after = model(torch.where(others, (ids + 11) % 50, ids), documents)
        assert torch.equal(before[~others], after[~others])
        assert not torch.allclose(before[others], after[others])


def test_confined_documents_have_gradients_of_their_own() -> None:
    model = make_model(BASE, 50)
    ids, documents = packed()
    embedded: list[Tensor] = []
    model.token_embed.register_forward_hook(
        lambda module, args, out: (out.retain_grad(), embedded.append(out))[0]
    )
    model(ids, documents)[documents == 2].sum().backward()
    gradient = embedded[0].grad
    assert gradient is not None
    assert (gradient[documents != 2] == 0).all() and (gradient[documents == 2] != 0).any()


def test_places_and_runs_of_documents() -> None:
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [4, 4, 4, 4, 5, 4]])
    places = places_in_documents(documents, torch.arange(6))
    assert places.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 0, 0]]
    runs = runs_of(documents)
    assert runs.ends.tolist() == [0, 3, 5, 6, 10, 11, 12]
    assert runs.longest == 4


def test_seen_without_limits_is_no_mask() -> None:
    there = torch.arange(4)
    assert seen(there, there, causal=False, window=None, documents=None) is None


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"window": 3, "global_every": 2}, {"kv_heads": 2}, {"kind": "bert"}])
def test_kernel_of_variable_length_is_the_mask(changes: dict[str, Any]) -> None:
    """On a GPU in bf16, against the masked attention of the CPU."""
    shape = settings(**changes, width=128, init_std=0.1)
    model = make_model(shape, 50).cuda()
    ids, documents = packed()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = model(ids.cuda(), documents.cuda()).float().cpu()
    torch.testing.assert_close(found, model.cpu()(ids, documents), rtol=0, atol=0.05)


def test_sight_is_shared_by_layers() -> None:
    """A plain causal row needs no mask at all: the kernel has its own."""
    model = make_model(BASE, 50)
    there = torch.arange(5)
    sight = model._sight(there, there, there, None, torch.zeros(1, 5, 24))
    assert isinstance(sight, Sight) and sight.causal and sight.wide is None and sight.near is None


def test_order_of_kernels_on_a_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's first, the others after it; compiled, too; and torch's own order after it."""
    order = torch.nn.attention._cur_sdpa_kernel_backends
    before, inside = order(with_priority=True), []

    @torch._dynamo.allow_in_graph
    def look(x: Tensor) -> Tensor:
        inside.append(order(with_priority=True))
        return x.clone()

    def attend(x: Tensor) -> Tensor:
        with attention.kernels():
            return look(torch.nn.functional.scaled_dot_product_attention(x, x, x))

    x = torch.randn(1, 1, 4, 4)
    with torch.no_grad():
        attend(x)
        assert inside.pop() == before
        monkeypatch.setattr(attention, "on_hopper", torch.compiler.assume_constant_result(lambda: True))
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            attend(x)
            assert inside.pop() == before, "its gradients differ from call to call"
        finally:
            torch.use_deterministic_algorithms(False)
        for call in (attend, torch.compile(attend, backend="eager", fullgraph=True)):
            call(x)
            assert inside[-1][: len(attention.ON_HOPPER or ())] == attention.ON_HOPPER
            assert order(with_priority=True) == before


def test_a_cpu_never_asks_for_a_gpus_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = make_model(BASE, 50), torch.randint(50, (2, 9))
    expected = model(ids)

    def asked() -> bool:
        raise AssertionError("a CPU has no such kernels")

    monkeypatch.setattr(attention, "on_hopper", asked)
    assert torch.equal(model(ids), expected)
    model.blocks[0].compile(backend="eager", fullgraph=True)
    assert torch.equal(model(ids), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_order_of_kernels_changes_rounding_alone(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """On a GPU in bf16: losses and gradients with the order that is ours, and with torch's."""
    found = []
    for kernels in (attention.ON_HOPPER, None):
        monkeypatch.setattr(attention, "ON_HOPPER", kernels)
        model = make_model(settings(width=128, heads=2, context=128), 50).cuda()
        if compiled:
            torch.compiler.reset()
            for block in model.blocks:
                block.compile(fullgraph=True)
        ids = torch.randint(50, (2, 128), generator=torch.Generator().manual_seed(0)).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = model(ids)
        logits.float().logsumexp(-1).mean().backward()
        found.append((logits.float(), model.blocks[0].attention.qkv.weight.grad))
    torch.testing.assert_close(found[0], found[1], rtol=0.02, atol=0.02)
