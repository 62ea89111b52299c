"""Writing on: what is drawn, that neither cache nor neighbours change it, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cluster.errors import RunError
from data_jobs.hashes import h64
from data_jobs.tokens.tokenizer import Tokenizer
from llm.model.bert import BERT
from llm.model.generation import (
    Reader,
    TextStream,
    first_shown,
    generate,
    generate_uncached,
    write,
)
from llm.model.gpt import GPT
from llm.model.sampling import Sampler, Sampling
from llm.settings import ModelSettings

LOGITS = torch.tensor([0.0, 1.0, 3.0, 2.0, -1.0])
SHAPE = {"layers": 3, "width": 32, "heads": 4, "context": 16, "init_std": 0.2}
KINDS: dict[str, dict[str, Any]] = {
    "learned": {"position": "learned", "norm": "layernorm", "biases": "all"},
    "sinusoidal": {"position": "sinusoidal"},
    "rotary": {"position": "rotary"},
    "alibi": {"position": "alibi"},
    "none": {"position": "none"},
    "window": {"window": 5},
    "window, some global": {"window": 3, "global_every": 2, "position": "learned"},
    "window, alibi": {"window": 4, "position": "alibi", "kv_heads": 2},
    "grouped": {"kv_heads": 2, "activation": "swiglu"},
    "one key head": {"kv_heads": 1, "head_size": 6},
    "qk-norm": {"qk_norm": True, "kv_heads": 2, "softcap": 5.0},
    "post-norm": {"norm_at": "post", "tied": False},
}
PROMPTS = [[7, 8, 9, 1, 2], [3], list(range(20, 33)), [5, 6, 5, 6, 5]]


def make(kind: str, **more: Any) -> GPT:
    return GPT(ModelSettings.model_validate(SHAPE | KINDS[kind] | more), 61, seed=3).eval()


def fixed(ids: Tensor) -> Tensor:
    return LOGITS.expand(1, ids.shape[1], 5)


def draw(tokens: int = 4000, forward: Callable[[Tensor], Tensor] = fixed, **options: Any) -> list[int]:
    return list(generate_uncached(forward, [0], Sampling(tokens=tokens, **options), 8))


def rows_of(model: GPT, prompts: list[list[int]], **options: Any) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in prompts]
    for row, token in generate(model, prompts, Sampling(**options)):
        found[row].append(token)
    return found


# What is drawn


def test_temperature_0_is_the_likeliest() -> None:
    assert draw(5, temperature=0) == [2] * 5


@pytest.mark.parametrize(
    ("options", "kept", "temperature"),
    [
        ({"top_k": None}, [0, 1, 2, 3, 4], 0.8),
        ({"top_k": 2, "temperature": 1.5}, [2, 3], 1.5),
        ({"top_k": None, "top_p": 0.8}, [2, 3], 0.8),  # 0.72 of the likeliest alone is less than 0.8
        ({"top_k": None, "top_p": 0.7}, [2], 0.8),
        ({"top_k": 3, "top_p": 0.97}, [2, 3, 1], 0.8),  # of the three: 0.94 with two, 1 with three
        ({"top_k": 3, "top_p": 0.9}, [2, 3], 0.8),
        ({"top_k": 2, "forbidden": (2,)}, [3, 1], 0.8),
    ],
)
def test_frequencies_are_the_softmax_of_what_is_kept(
    options: dict[str, Any], kept: list[int], temperature: float
) -> None:
    counts = torch.bincount(torch.tensor(draw(**options)), minlength=5) / 4000
    expected = torch.zeros(5)
    expected[kept] = (LOGITS[kept] / temperature).softmax(0)
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.03)
    assert ((counts == 0) == (expected == 0)).all()


def test_repetition_penalty_is_the_formula_on_what_the_text_holds() -> None:
    """Positive logits are divided, negative ones multiplied; of the prompt, too, and once a token."""
    options = Sampling(repetition_penalty=2.0, temperature=0)
    sampler = Sampler(options, [[2, 2, 4], [1]])
    found = sampler._allowed(LOGITS.expand(2, 5))
    assert found.tolist() == [[0, 1, 1.5, 2, -2], [0, 0.5, 3, 2, -1]]
    assert sampler.draw(LOGITS.expand(2, 5)) == [3, 2]
    assert sampler.draw(LOGITS.expand(2, 5)) == [2, 3]  # 3 is now 1 in the first row, 2 is 1.5 in the second
    sampler.keep([1])
    assert sampler._allowed(LOGITS[None]).tolist() == [[0, 0.5, 1.5, 1, -1]]


def test_a_draw_hangs_on_seed_row_and_position_alone() -> None:
    assert draw(50, seed=1) == draw(50, seed=1) != draw(50, seed=2)
    assert draw(20, seed=1) == draw(50, seed=1)[:20]
    model = make("rotary")
    both = rows_of(model, [[1, 2], [1, 2]], tokens=12, seed=5)
    assert both[0] != both[1]
    second = [token for _, token in generate(model, [[1, 2]], Sampling(tokens=12, seed=5), first=1)]
    assert second == both[1]
    # For ever, so that old texts can be made again.
    assert draw(9, seed=4, top_k=None) == [3, 3, 3, 1, 2, 2, 2, 2, 2]


def test_numbers_that_cannot_be_are_all_named() -> None:
    with pytest.raises(ValueError, match="tokens must be at least 1, it is 0; .*top_p must be above 0"):
        Sampling(tokens=0, top_p=0)
    with pytest.raises(ValueError, match="temperature"):
        Sampling(temperature=float("nan"))


@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_no_numbers_are_refused(temperature: float) -> None:
    with pytest.raises(RunError, match="not finite"):
        draw(1, lambda ids: torch.full((1, 1, 5), torch.nan), temperature=temperature)
    with pytest.raises(RunError, match="forbidden"):
        draw(1, temperature=temperature, forbidden=(0, 1, 2, 3, 4))


# The cache, the batch, the context


def test_what_is_shown_of_a_long_text() -> None:
    """All of it while it fits; beyond, half a context is dropped at a time."""
    assert [length - first_shown(length, 8) for length in range(1, 18)] == [
        1, 2, 3, 4, 5, 6, 7, 8, 5, 6, 7, 8, 5, 6, 7, 8, 5
    ]  # fmt: skip
    assert max(length - first_shown(length, 7) for length in range(99)) == 7
    assert first_shown(3, 2) == 1
    seen = []

    def forward(ids: Tensor) -> Tensor:
        seen.append(ids.shape[1])
        return fixed(ids)

    list(generate_uncached(forward, [0] * 6, Sampling(tokens=5), 8))
    assert seen == [6, 7, 8, 5, 6]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1]], ids=["four rows", "one row"])
def test_cached_logits_are_those_of_the_whole_row(kind: str, prompts: list[list[int]]) -> None:
    """At each step and beyond the context, rows of unlike lengths, one taken out on the way."""
    model, alive = make(kind), [list(prompt) for prompt in prompts]
    reader = Reader(model, prompts, 16)
    generator = torch.Generator().manual_seed(0)
    for step in range(30):
        found = reader.logits()
        with torch.no_grad():
            whole = [model(torch.tensor([ids[first_shown(len(ids), 16) :]]))[0, -1] for ids in alive]
        torch.testing.assert_close(found, torch.stack(whole), rtol=0, atol=1e-5)
        assert found.argmax(1).tolist() == torch.stack(whole).argmax(1).tolist()
        new = torch.randint(0, 61, (len(alive),), generator=generator).tolist()
        if step == 2 and len(alive) > 1:
            reader.keep([0, 1, 3])
            alive, new = [alive[0], alive[1], alive[3]], new[:3]
        reader.append(new)
        alive = [[*ids, token] for ids, token in zip(alive, new)]


@pytest.mark.parametrize("kind", ["learned", "rotary", "alibi", "window"])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"top_k": 9}], ids=["greedy", "sampled"])
def test_a_row_does_not_hang_on_its_neighbours(kind: str, options: dict[str, Any]) -> None:
    """Alone, in a batch whose others stop at other steps, and without a cache: the same ids."""
    model = make(kind)
    options = {"tokens": 25, "stop": 11, "seed": 2} | options
    together = rows_of(model, PROMPTS, **options)
    for row, prompt in enumerate(PROMPTS):
        sampling = Sampling(**options)
        assert [t for _, t in generate(model, [prompt], sampling, first=row)] == together[row]
        if row == 0:
            with torch.no_grad():
                assert list(generate_uncached(model, prompt, sampling, 16)) == together[row]


def test_a_shorter_context_than_the_models() -> None:
    model, sampling = make("learned"), Sampling(tokens=20, top_k=None)
    found = [token for _, token in generate(model, [[4, 5]], sampling, context=6)]
    with torch.no_grad():
        assert found == list(generate_uncached(model, [4, 5], sampling, 6))
    assert found != [token for _, token in generate(model, [[4, 5]], sampling)]


def test_only_a_gpt_writes_on() -> None:
    bert = BERT(ModelSettings(kind="bert", layers=1, width=8, heads=1), 20)
    with pytest.raises(ValueError, match="causal"):
        Reader(bert, [[1]], 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="an id to begin with"):
        Reader(make("rotary"), [[1], []], 8)


# Where it ends


def test_the_stop_token_ends_a_row_and_is_no_part_of_it() -> None:
    found = draw(200, stop=3)
    assert 3 not in found and len(found) < 200
    assert draw(200)[: len(found)] == found and draw(200)[len(found)] == 3


def test_rows_that_the_caller_ends() -> None:
    model, ended, found = make("rotary"), set[int](), []
    for row, _ in generate(model, PROMPTS, Sampling(tokens=6, temperature=0), ended=ended):
        found.append(row)
        if row == 2 or (row == 0 and found.count(0) == 3):
            ended.add(row)
    assert [found.count(row) for row in range(4)] == [3, 6, 1, 6]


@pytest.mark.parametrize(
    ("stops", "text"),
    [
        ([], "aé🙂 fin. END more"),
        (["END"], "aé🙂 fin. "),
        ([" END", "END"], "aé🙂 fin."),
        (["fin.\n", "é"], "a"),
        (["🙂 fin. X", "more"], "aé🙂 fin. END "),
        (["ore"], "aé🙂 fin. END m"),
        (["nothing"], "aé🙂 fin. END more"),
        (["n. E", "in. EN"], "aé🙂 fi"),
    ],
)
def test_stop_strings_across_any_borders(stops: list[str], text: str) -> None:
    """Cut at each place, in single bytes, and in one piece: one result; what is shown is never taken back."""
    data = "aé🙂 fin. END more".encode()
    cuts = [[data], [data[i : i + 1] for i in range(len(data))]]
    cuts += [[data[:at], data[at:]] for at in range(len(data))]
    for pieces in cuts:
        stream = TextStream(stops)
        shown = [stream.push(piece) for piece in pieces]
        assert "".join([*shown, stream.finish()]) == text
        assert stream.stopped == (text != data.decode())


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    stream = TextStream(["stop"])
    found = stream.push(b"a\xff\xf0\x9f") + stream.push(b"b\xf0\x9f\x99") + stream.finish()
    assert found == b"a\xff\xf0\x9fb\xf0\x9f\x99".decode("utf-8", "replace")


def test_text_is_shown_as_soon_as_it_is_certain() -> None:
    stream = TextStream(["END"])
    assert [stream.push(piece) for piece in (b"one", b" E", b"N", b"C", b"END", b"x")] == [
        "one", " ", "", "ENC", "", ""
    ]  # fmt: skip


class Bytes(Tokenizer):
    """Id i is the byte i + 32."""

    vocab_size = 61

    def encode_batch(self, texts: Any) -> Any:
        raise NotImplementedError

    def piece_bytes(self, token: int) -> bytes:
        return bytes([token + 32])

    def is_byte(self, token: int) -> bool:
        return True

    def save(self, folder: Any) -> None:
        raise NotImplementedError


def test_write_joins_tokens_to_texts_and_stops() -> None:
    """Stop strings made of what the rows would have said: each row is cut before its own."""
    model, sampling = make("rotary"), Sampling(tokens=12, top_k=None, seed=h64(0) >> 1)
    rows = rows_of(model, PROMPTS, **vars(sampling))
    full = [bytes(token + 32 for token in row).decode() for row in rows]

    def texts(stops: list[str]) -> list[str]:
        found = [""] * 4
        for row, text in write(model, Bytes(), PROMPTS, sampling, stops=stops):
            found[row] += text
        return found

    assert texts([]) == full
    stop = full[1][4:7]
    assert texts([stop]) == [text.split(stop)[0] for text in full] != full
