"""Whole commands for a BERT, for packed documents, and for models that come from and go to Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import llm
from tests.journeys.home import HERE, RECIPE, Home

BERT = {
    "model": {"kind": "bert", "layers": 2, "width": 32, "heads": 2, "context": 64},
    "pretrain": {
        **{k: v for k, v in RECIPE["pretrain"].items() if k != "samples"},
        "masking": {"whole_word": True},
        "z_loss": 1e-4,
    },
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"), {**RECIPE, **BERT})
    home.prepare()
    return home


@pytest.fixture(scope="module")
def bert(home: Home) -> Path:
    """A BERT of one worker, never stopped."""
    home.pretrain("bert", *HERE)
    return home.path / "bert"


def same(run: Path, other: Path) -> bool:
    rows, others = (
        [
            {k: v for k, v in row.items() if "loss" in k or "accuracy" in k or k == "sample_digest"}
            for row in rows
        ]
        for rows in (llm.read_metrics(run), llm.read_metrics(other))
    )
    return rows == others


def test_a_bert_learns_and_logs_its_parts(bert: Path) -> None:
    rows = llm.read_metrics(bert)
    with_pairs = [row for row in rows[1:] if "nsp_loss" in row]  # of 4 samples all may be one sentence
    assert len(with_pairs) > 10
    for row in with_pairs:
        assert row["loss"] == pytest.approx(row["mlm_loss"] + row["nsp_loss"])
        assert row["z_loss"] > 0
    assert rows[20]["val_mlm_loss"] < rows[0]["val_mlm_loss"] - 0.05
    summary = json.loads((bert / "summary.json").read_text())
    assert 0 <= summary["val_nsp_accuracy"] <= 1 and 0 <= summary["val_masked_accuracy"] <= 1
    assert list((bert / "plans").iterdir()), "the groups of documents are kept beside the run"


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_a_bert_see_what_one_sees(home: Home, bert: Path) -> None:
    """Pairs and masks are those of the sample number: the digests are equal, the losses nearly."""
    home.pretrain("two", "--pretrain.wandb.mode", "disabled", "--pretrain.zero_stage", "2")
    for one, two in zip(llm.read_metrics(bert), llm.read_metrics(home.path / "two"), strict=True):
        assert one.get("sample_digest") == two.get("sample_digest")
        for name in ("mlm_loss", "nsp_loss", "val_mlm_loss"):
            assert (name in one) == (name in two)
            assert one.get(name, 0) == pytest.approx(two.get(name, 0), rel=1e-4)


def test_a_killed_bert_ends_with_the_same_result(home: Home, bert: Path) -> None:
    home.pretrain("killed", *HERE, status=-9, MANTA_FAULT="train.step:step=13")
    home.pretrain("killed", *HERE)
    assert same(home.path / "killed", bert)
    for name, value in llm.load(bert).model.named_parameters():
        assert torch.equal(llm.load(home.path / "killed").model.get_parameter(name), value), name


def test_evaluate_and_fill(home: Home, bert: Path) -> None:
    found = json.loads(home.call("llm.evaluate", str(bert), "--json").splitlines()[-1])
    last = llm.read_metrics(bert)[-1]
    assert found["mlm_loss"] == pytest.approx(last["val_mlm_loss"], rel=1e-5)
    assert found["nsp_accuracy"] == pytest.approx(last["val_nsp_accuracy"])
    assert "bits_per_byte" not in found and found["pseudo_perplexity"] > 1
    low, high = found["nsp_accuracy_interval"]
    assert low < found["nsp_accuracy"] < high
    assert 0 < found["unigram_accuracy"] < 0.3
    filled = json.loads(
        home.call("llm.generate", str(bert), "--prompt", "def [MASK](self):", "--json").splitlines()[-1]
    )
    shares = [candidate["probability"] for candidate in filled["masks"][0]["candidates"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1
    assert "[MASK]" not in filled["text"]


@pytest.mark.slow
def test_what_a_bert_has_no_use_for_is_refused(home: Home, bert: Path, tmp_path: Path) -> None:
    for args, words in (
        (("--pretrain.packing", "bestfit"), "pretrain.packing is for a gpt"),
        (("--pretrain.confine", "true"), "pretrain.confine is for a gpt"),
        (("--pretrain.samples.prompts", "[a]"), "pretrain.samples.prompts are for a gpt"),
        (("--model.window", "65"), "window (65) is longer than the context (64)"),
        (("--model.heads", "5"), "heads (5) must divide width (32)"),
        (("--model.preset", "gpt5"), "no preset 'gpt5'; there are: gpt2-124m"),
    ):
        assert words in home.pretrain("refused", *HERE, *args, status=2)
    assert not (home.path / "refused").exists()
    (tmp_path / "a.txt").write_text("text")
    assert "--text is for a gpt" in home.call(
        "llm.evaluate", str(bert), "--text", str(tmp_path / "a.txt"), status=2
    )
    assert "pretrain.masking.share" in home.pretrain(
        "bert", *HERE, "--pretrain.masking.share", "0.3", status=2
    )


@pytest.mark.slow
def test_packed_and_confined_documents(home: Home) -> None:
    """Trained, killed and continued to the bit; the packing cannot change in mid-run."""
    gpt = ["--model.kind", "gpt", "--pretrain.packing", "bestfit", "--pretrain.confine", "true", *HERE]
    home.pretrain("packed-whole", *gpt)
    home.pretrain("packed", *gpt, status=-9, MANTA_FAULT="train.step:step=13")
    home.pretrain("packed", *gpt)
    assert same(home.path / "packed", home.path / "packed-whole")
    rows = llm.read_metrics(home.path / "packed")
    assert rows[20]["val_loss"] < rows[0]["val_loss"] - 0.1
    refused = home.pretrain(
        "packed", *gpt, "--pretrain.packing", "stream", "--accept", "pretrain.packing", status=2
    )
    assert "pretrain.packing" in refused


@pytest.mark.slow
def test_from_hugging_face_through_training_and_back(home: Home, tmp_path: Path) -> None:
    """Exported, imported, trained on from there, exported again: transformers gives the same logits."""
    transformers: Any = pytest.importorskip("transformers")
    gpt = ["--model.kind", "gpt", "--model.activation", "swiglu", *HERE]
    home.pretrain("gpt", *gpt)
    home.call("llm.export", str(home.path / "gpt"), str(tmp_path / "theirs"))
    home.call("llm.import_hf", str(tmp_path / "theirs"), str(tmp_path / "ours"))
    # The exported tokenizer is another kind of file, so the corpus is prepared with it.
    corpus = [
        "--corpus.out",
        str(tmp_path / "corpus"),
        "--corpus.tokenizer.path",
        str(tmp_path / "ours" / "tokenizer"),
    ]
    home.call("data_jobs.prepare", str(home.recipe), *corpus, "--engine", "local")
    on = ["--pretrain.corpus", str(tmp_path / "corpus"), "--pretrain.start_from", str(tmp_path / "ours")]
    refused = home.pretrain("on", *gpt, "--pretrain.start_from", str(tmp_path / "ours"), status=2)
    assert "--corpus.tokenizer.path" in refused
    shape = llm.load(tmp_path / "ours").model.settings
    assert shape.activation == "swiglu"
    recipe = tmp_path / "on.yaml"
    recipe.write_text("pretrain: {steps: 3, batch: 4, length: 64, micro_batch: 4}\n")
    home.call("llm.pretrain", str(recipe), *HERE, *on, "--pretrain.out", str(tmp_path / "on"))
    # What it started from is not needed again.
    (tmp_path / "ours").rename(tmp_path / "elsewhere")
    again = home.call("llm.pretrain", str(recipe), *HERE, *on, "--pretrain.out", str(tmp_path / "on"))
    assert "nothing to do" in again
    rows, before = llm.read_metrics(tmp_path / "on"), llm.read_metrics(home.path / "gpt")
    assert rows[0]["val_loss"] == pytest.approx(before[-1]["val_loss"], abs=0.05), "not from fresh weights"
    home.call("llm.export", str(tmp_path / "on"), str(tmp_path / "back"))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    loaded = llm.load(tmp_path / "on")
    text = "def f(self):\n    return 1"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert ids[0].tolist() == [loaded.tokenizer.eos_id, *loaded.tokenizer.encode(text).tolist()]
    torch.testing.assert_close(model(ids).logits, loaded.model(ids), rtol=0, atol=1e-5)
