"""The command over a tiny GPT and a tiny BERT: what it prints, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import UserError
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from llm import generate
from llm.loading import Loaded
from llm.model import make_model
from llm.model.generation import generate_uncached
from llm.model.sampling import Sampling
from llm.settings import ModelSettings
from tests.llm.folders import make_corpus

SHAPE: dict[str, Any] = {"layers": 2, "width": 32, "heads": 4, "context": 32, "init_std": 0.2}
Say = Callable[..., str]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(make_corpus(tmp_path_factory.mktemp("generate")) / "tokenizer")


def load_as(tokenizer: Tokenizer, kind: str, **settings: Any) -> Loaded:
    """Two rows more than the tokenizer has entries, as imported models have; one is always the likeliest."""
    model = make_model(ModelSettings.model_validate(SHAPE | {"kind": kind}), tokenizer.vocab_size + 2, seed=1)
    with torch.no_grad():
        rows = model.token_embed.weight
        rows[-1] *= 20
        rows[-2] = -rows[-1]
    return Loaded(model.eval(), tokenizer, {"pretrain": {"length": 24}} | settings, 7, Path("run"))


@pytest.fixture
def gpt(tokenizer: Tokenizer) -> Loaded:
    return load_as(tokenizer, "gpt")


@pytest.fixture
def bert(tokenizer: Tokenizer) -> Loaded:
    return load_as(tokenizer, "bert")


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """The command's stdout, for a loaded model and flags."""

    def run(loaded: Loaded, *flags: str) -> str:
        monkeypatch.setattr(generate, "load", lambda run: loaded)
        assert generate.main(["RUN", *flags]) == 0
        return capsys.readouterr().out

    return run


def written(loaded: Loaded, prompt: str, tokens: int, start: list[int], context: int = 24) -> str:
    """What greedy writing without a cache adds."""
    tokenizer = loaded.tokenizer
    never = {*tokenizer.specials.values(), tokenizer.vocab_size, tokenizer.vocab_size + 1}
    sampling = Sampling(
        tokens=tokens, temperature=0, stop=tokenizer.eos_id, forbidden=tuple(never - {tokenizer.eos_id})
    )
    ids = [*start, *(int(i) for i in tokenizer.encode(prompt))]
    with torch.no_grad():
        return prompt + tokenizer.decode(list(generate_uncached(loaded.model, ids, sampling, context)))


def test_one_prompt_streams_its_text(gpt: Loaded, say: Say) -> None:
    expected = written(gpt, "word3 é", 40, [gpt.tokenizer.eos_id])
    assert say(gpt, "--prompt", "word3 é", "--tokens", "40", "--temperature", "0") == expected + "\n"
    assert len(expected) > 20


def test_json_is_a_line_for_each_prompt(gpt: Loaded, say: Say, tmp_path: Path) -> None:
    """Rows of unlike lengths, from flags and file, more than are written at once, an empty one among them."""
    texts = [*(f"word{i} " * (i % 5) for i in range(18)), "", "\u2028 \x0b"]
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(texts[2:]) + "\r\n", newline="")
    flags = ("--prompt", texts[0], "--prompt", texts[1], "--prompts", str(file), "--tokens", "9")
    lines = [json.loads(line) for line in say(gpt, *flags, "--temperature", "0", "--json").splitlines()]
    start = [gpt.tokenizer.eos_id]
    assert lines == [{"prompt": text, "text": written(gpt, text, 9, start), "step": 7} for text in texts]
    assert say(gpt, *flags, "--seed", "5") == say(gpt, *flags, "--seed", "5") != say(gpt, *flags)


def test_stop_text_and_the_flags_of_sampling(gpt: Loaded, say: Say) -> None:
    whole = say(gpt, "--prompt", "w", "--tokens", "30", "--seed", "3", "--top-k", "0")
    stop = whole[9:12]
    cut = say(gpt, "--prompt", "w", "--tokens", "30", "--seed", "3", "--top-k", "0", "--stop", stop)
    assert cut == "w" + whole[1:].split(stop)[0] + "\n"
    base = ("--prompt", "w", "--tokens", "30", "--seed", "3")
    texts = {say(gpt, *base), whole}
    texts.add(say(gpt, *base, "--top-p", "0.2"))
    texts.add(say(gpt, *base, "--repetition-penalty", "3"))
    texts.add(say(gpt, *base, "--temperature", "1.4"))
    assert len(texts) == 5
    assert say(gpt, *base, "--top-k", "1") == say(gpt, *base, "--temperature", "0")


def test_an_imported_model_says_how_texts_begin(tokenizer: Tokenizer, say: Say) -> None:
    loaded = load_as(tokenizer, "gpt", text_start=[], pretrain={"length": 32})
    flags = ("--tokens", "30", "--temperature", "0")
    assert say(loaded, "--prompt", "word3", *flags)[:-1] == written(loaded, "word3", 30, [], 32)
    assert say(loaded, "--prompt", "", *flags)[:-1] == written(loaded, "", 30, [tokenizer.eos_id], 32)
    assert say(loaded, "--prompt", "a [MASK] b", *flags).startswith("a [MASK] b")  # text for a GPT


def test_masks_are_filled_with_what_the_model_says(bert: Loaded, say: Say) -> None:
    tokenizer, prompt = bert.tokenizer, "word1 [MASK] word2 [MASK]."
    ids = [
        tokenizer.cls_id, *tokenizer.encode("word1").tolist(), tokenizer.mask_id,
        *tokenizer.encode(" word2").tolist(), tokenizer.mask_id, *tokenizer.encode(".").tolist(),
        tokenizer.sep_id,
    ]  # fmt: skip
    with torch.no_grad():
        logits = bert.model(torch.tensor([ids]))[0]
    logits[:, [*tokenizer.specials.values(), tokenizer.vocab_size, tokenizer.vocab_size + 1]] = -torch.inf
    places = [i for i, token in enumerate(ids) if token == tokenizer.mask_id]
    best = [logits[place].softmax(0).topk(3) for place in places]
    found = json.loads(say(bert, "--prompt", prompt, "--top", "3", "--json"))
    assert (found["prompt"], found["step"]) == (prompt, 7)
    assert [mask["position"] for mask in found["masks"]] == places
    for mask, (shares, tokens) in zip(found["masks"], best, strict=True):
        assert [c["token"] for c in mask["candidates"]] == tokens.tolist()
        assert [c["probability"] for c in mask["candidates"]] == pytest.approx(shares.tolist(), rel=1e-4)
        assert [c["text"] for c in mask["candidates"]] == [tokenizer.decode([int(t)]) for t in tokens]
    first, second = (tokenizer.decode([int(tokens[0])]) for _, tokens in best)
    assert found["text"] == f"word1 {first.removeprefix(' ')} word2 {second.removeprefix(' ')}."
    shown = say(bert, "--prompt", prompt)
    assert shown.startswith(found["text"] + "\n") and "[MASK] 2: " in shown and shown.count("%") == 10


@pytest.mark.parametrize(
    ("prompt", "fillings", "text"),
    [
        ("The [MASK] of", [" cat"], "The cat of"),
        ("The [MASK] of", [","], "The , of"),
        ("The[MASK] of", ["se"], "These of"),
        ("The\n    [MASK] [MASK]", ["x", " y"], "The\n    x y"),
        ("[MASK] of", [" Most"], "Most of"),
        ("(  [MASK])[MASK]", [" x", ";"], "(  x);"),
    ],
)
def test_what_was_written_stays_around_a_filling(prompt: str, fillings: list[str], text: str) -> None:
    assert generate.filled_text(prompt, fillings) == text


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        ("gpt", [], "there is no prompt: give --prompt"),
        ("gpt", ["--prompts", "/nowhere"], "--prompts /nowhere: cannot be read"),
        (
            "gpt",
            ["--prompt", "word1 word2 " * 20],
            r"'word1.*\.\.\.': \d+ tokens .* sees 24: shorten it by \d",
        ),
        ("gpt", ["--prompt", "a", "--tokens", "0"], "--tokens must be at least 1, it is 0"),
        ("gpt", ["--prompt", "a", "--top-k", "-1"], "--top-k must be at least 1"),
        (
            "gpt",
            ["--prompt", "a", "--top-p", "1.5", "--temperature", "-1", "--repetition-penalty", "0"],
            "--temperature must .*; --top-p must be above 0, at most 1, .*; --repetition-penalty must",
        ),
        ("gpt", ["--prompt", "a", "--stop", ""], "--stop is an empty text"),
        ("gpt", ["--prompt", "a", "--top", "3"], "--top: RUN is a GPT"),
        ("gpt", ["--prompt", "\udcff"], "not UTF-8"),
        ("bert", ["--prompt", "no mask"], r"'no mask': has no \[MASK\]"),
        ("bert", ["--prompt", "[MASK]", "--top", "0"], "--top must be at least 1, it is 0"),
        ("bert", ["--prompt", "[MASK] word1 " * 12], r"sees 24: shorten it by \d+ tokens"),
        ("bert", ["--prompt", "[MASK]", "--seed", "0", "--stop", "a"], "--seed, --stop: RUN is a BERT"),
    ],
)
def test_what_is_refused(kind: str, flags: list[str], message: str, tokenizer: Tokenizer, say: Say) -> None:
    with pytest.raises(UserError, match=message):
        say(load_as(tokenizer, kind), *flags)
