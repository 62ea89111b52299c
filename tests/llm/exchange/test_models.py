"""Models of transformers come in and go out again with equal results; the truth is transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from data_jobs.tokens.tokenizer import Tokenizer
from llm.exchange.architectures import MODEL_TYPES, Architecture, architecture_for
from llm.exchange.exporting import export_model, source_of
from llm.exchange.importing import import_model
from llm.exchange.model_folder import Imported, read_imported
from llm.model import BERT, Model, make_model
from llm.model.inputs import Inputs
from llm.settings import ModelSettings
from tests.llm.exchange.conftest import CONTEXT, Save, random_model

YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1000, "rope_theta": 100.0,
    "beta_fast": 8.0, "beta_slow": 2.0,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "rope_theta": 500.0,
}  # fmt: skip
SLIDING = {"use_sliding_window": True, "sliding_window": 5}
# Each architecture, and each switch that it has beside our own.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("GPT2LMHeadModel", {}),
    ("GPT2LMHeadModel", {"activation_function": "relu", "n_inner": 40, "tie_word_embeddings": False}),
    ("LlamaForCausalLM", {}),
    ("LlamaForCausalLM", {"attention_bias": True, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    ("LlamaForCausalLM", {"mlp_bias": True, "head_dim": 12, "num_key_value_heads": 4, "hidden_act": "gelu"}),
    ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}),
    ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 1e4}}),
    ("LlamaForCausalLM", {"rope_parameters": LLAMA3}),
    ("LlamaForCausalLM", {"rope_parameters": YARN, "head_dim": 16}),
    ("MistralForCausalLM", {"sliding_window": 5}),
    ("MistralForCausalLM", {"sliding_window": None, "head_dim": 16}),
    ("Qwen2ForCausalLM", {"tie_word_embeddings": True}),
    ("Qwen2ForCausalLM", {**SLIDING, "max_window_layers": 1}),
    ("Qwen3ForCausalLM", {"head_dim": 16}),
    ("Qwen3ForCausalLM", {"attention_bias": True, "head_dim": 8, **SLIDING, "max_window_layers": 0}),
    ("ArceeForCausalLM", {"mlp_bias": True}),
    ("ArceeForCausalLM", {"hidden_act": "gelu", "tie_word_embeddings": True}),
    ("ApertusForCausalLM", {"hidden_act": "silu", "rope_parameters": LLAMA3}),
    ("BertForPreTraining", {}),
    ("BertForPreTraining", {"hidden_act": "gelu_new", "tie_word_embeddings": False, "layer_norm_eps": 1e-5}),
    ("BertForMaskedLM", {"hidden_act": "relu"}),
    ("BertModel", {}),
    ("BertForSequenceClassification", {"num_labels": 3}),
]


def come_in(folder: Path) -> tuple[Imported, Model]:
    """Import a folder beside it, and open what was written."""
    import_model(folder, folder.parent / "ours")
    found = read_imported(folder.parent / "ours")
    model = make_model(found.settings, found.vocab_size).eval()
    found.fill(model)
    return found, model


def go_out(found: Imported, model: Any, **options: Any) -> Any:
    """Export, and load by transformers; nothing may be missing or left over."""
    out = found.path.parent / "out"
    export_model(source_of(found), out, options.pop("shard_size", 10**9), **options)
    again, report = type(model).from_pretrained(out, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return again.eval()


def logits_of(output: Any) -> Tensor:
    """Of a language model, a BERT for pre-training, a classifier; the states of a bare body."""
    for name in ("prediction_logits", "logits", "last_hidden_state"):
        if name in output:
            return output[name]
    raise AssertionError(output.keys())


def ours_of(model: Model, name: str, ids: Tensor, found: Imported) -> Tensor:
    if name == "BertModel":
        return model.hidden(ids)
    if name == "BertForSequenceClassification":
        assert isinstance(model, BERT)
        head = found.aside()
        return torch.nn.functional.linear(
            model.pooled(model.hidden(ids)), head["classifier.weight"], head["classifier.bias"]
        )
    return model(ids)


@pytest.mark.parametrize(("name", "changes"), CASES, ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_in_and_out(name: str, changes: dict[str, Any], tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model(name, tokenizer.vocab_size, **changes)
    if hasattr(theirs, "cls"):  # the one that is not in use
        theirs.cls.predictions.bias.data = theirs.cls.predictions.decoder.bias.data.clone()
    found, ours = come_in(save(theirs))
    ids = torch.randint(7, tokenizer.vocab_size, (2, CONTEXT))
    with torch.no_grad():
        expected = logits_of(theirs(ids))
        assert (expected - ours_of(ours, name, ids, found)).abs().max() < 1e-5
        again = go_out(found, theirs)
        # Not to the bit: kernels differ with where in memory a tensor begins.
        assert (logits_of(again(ids)) - expected).abs().max() < 1e-6
    state = again.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in theirs.state_dict().items())
    # In once more: the settings are the same, so nothing of config.json was lost that we know of.
    import_model(found.path.parent / "out", found.path.parent / "twice")
    assert read_imported(found.path.parent / "twice").record["model"] == found.record["model"]


def test_each_architecture_has_a_case() -> None:
    assert {name for name, _ in CASES} == set(MODEL_TYPES)


def gradients_agree(ours: Model, theirs: Any, found: Imported) -> None:
    """Of every tensor, within 1e-5 of the largest of it."""
    mine = dict(ours.named_parameters())
    other = {name: p.grad for name, p in theirs.named_parameters()}
    weights = Architecture(found.record["architecture"]).weights(found.settings, found.vocab_size)
    assert {weight.ours for weight in weights} == mine.keys()
    for weight in weights:
        expected = weight.join([other[name] for name in weight.theirs])
        gradient = mine[weight.ours].grad
        assert gradient is not None and expected.abs().max() > 0, weight.ours
        assert (gradient - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max())), weight.ours


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_loss_and_gradients_of_a_gpt(name: str, tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model(name, tokenizer.vocab_size)
    found, ours = come_in(save(theirs))
    ids = torch.randint(7, tokenizer.vocab_size, (3, CONTEXT))
    expected = theirs(ids, labels=ids).loss
    expected.backward()
    weights = torch.ones(3, CONTEXT)
    weights[:, -1] = 0
    loss = ours.losses(Inputs(ids, ids.roll(-1, 1), weights))[0] / weights.sum()
    loss.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    gradients_agree(ours, theirs, found)


def test_loss_and_gradients_of_a_bert_with_padding_and_segments(tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model("BertForPreTraining", tokenizer.vocab_size)
    found, ours = come_in(save(theirs))
    there = torch.arange(CONTEXT) < torch.tensor([[CONTEXT], [30], [17]])
    ids = torch.where(there, torch.randint(7, tokenizer.vocab_size, (3, CONTEXT)), tokenizer.pad_id)
    segments = ((torch.arange(CONTEXT) >= 11) & there).long()
    guessed = there & (torch.rand(3, CONTEXT) < 0.2)
    labels, follows = torch.randint(7, tokenizer.vocab_size, (3, CONTEXT)), torch.tensor([0, 1, 0])
    output = theirs(
        ids, attention_mask=there.long(), token_type_ids=segments,
        labels=labels.masked_fill(~guessed, -100), next_sentence_label=follows,
    )  # fmt: skip
    output.loss.backward()
    inputs = Inputs(ids, labels, guessed.float(), None, there.long(), segments, follows, torch.ones(3))
    assert isinstance(ours, BERT)
    hidden = ours.hidden(ids, there.long(), segments)
    logits = ours.lm_head(ours.lm_transform(hidden))
    assert (logits - output.prediction_logits)[there].abs().max() < 1e-5
    assert (ours.next_logits(hidden) - output.seq_relationship_logits).abs().max() < 1e-5
    masked, _, pairs = ours.losses(inputs)
    loss = masked / guessed.sum() + pairs / 3
    loss.backward()
    assert abs(loss.item() - output.loss.item()) < 1e-5
    gradients_agree(ours, theirs, found)


def test_what_was_published_before_comes_in(tokenizer: Tokenizer, save: Save) -> None:
    """Names without prefix, gamma and beta, masks, no architecture named, all heads in a BertForMaskedLM."""
    from safetensors.torch import load_file, save_file

    gpt = random_model("GPT2LMHeadModel", tokenizer.vocab_size)
    folder = save(gpt, "gpt")
    tensors = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    old |= {f"h.{i}.attn.bias": torch.ones(1, 1, 4, 4) for i in range(2)}
    old["lm_head.weight"] = old["wte.weight"].clone()
    save_file(old, folder / "model.safetensors")
    edit_config(folder, architectures=None)
    ids = torch.randint(7, tokenizer.vocab_size, (1, 9))
    _, ours = come_in(folder)
    assert (ours(ids) - gpt(ids).logits).abs().max() < 1e-5

    bert = random_model("BertForPreTraining", tokenizer.vocab_size)
    folder = save(bert, "bert/theirs")
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in tensors.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(CONTEXT)
    save_file(old, folder / "model.safetensors")
    edit_config(folder, architectures=["BertForMaskedLM"])
    found, ours = come_in(folder)
    assert found.record["architecture"] == "BertForPreTraining"
    assert (ours(ids) - bert(ids).prediction_logits).abs().max() < 1e-5


def edit_config(folder: Path, **changes: Any) -> None:
    """Set fields of config.json; None removes one."""
    import json

    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def test_fields_of_earlier_versions(tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model("LlamaForCausalLM", tokenizer.vocab_size, rope_parameters=LLAMA3)
    folder = save(theirs)
    scaling = {name: value for name, value in LLAMA3.items() if name != "rope_theta"}
    edit_config(folder, rope_parameters=None, rope_theta=500.0, rope_scaling=scaling)
    _, ours = come_in(folder)
    ids = torch.randint(7, tokenizer.vocab_size, (1, CONTEXT))
    assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-5
    theirs = random_model("Qwen2ForCausalLM", tokenizer.vocab_size, **SLIDING, max_window_layers=1)
    folder = save(theirs, "qwen/theirs")
    edit_config(folder, layer_types=None)
    _, ours = come_in(folder)
    assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_as_it_is(dtype: torch.dtype, tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model("Qwen3ForCausalLM", tokenizer.vocab_size).to(dtype)
    found, ours = come_in(save(theirs))
    assert next(ours.parameters()).dtype == torch.float32
    again = go_out(found, theirs, shard_size=20_000)
    assert again.dtype == dtype
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in theirs.state_dict().items())


def test_shards_with_their_index(tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model("LlamaForCausalLM", tokenizer.vocab_size)
    found, _ = come_in(save(theirs, max_shard_size="40KB"))
    assert len(list((found.path.parent / "theirs").glob("*.safetensors"))) > 2
    go_out(found, theirs, shard_size=60_000, dtype=torch.float32)
    files = sorted((found.path.parent / "out").glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    largest = tokenizer.vocab_size * 32 * 4
    assert all(file.stat().st_size < max(60_000, largest) + 4096 for file in files)


def test_more_rows_than_the_tokenizer_has_are_kept(tokenizer: Tokenizer, save: Save) -> None:
    theirs = random_model("LlamaForCausalLM", tokenizer.vocab_size + 24)
    found, ours = come_in(save(theirs))
    assert found.vocab_size == ours.vocab_size == tokenizer.vocab_size + 24
    assert found.tokenizer.vocab_size == tokenizer.vocab_size
    assert go_out(found, theirs).config.vocab_size == tokenizer.vocab_size + 24


def test_the_pipelines_of_transformers_take_what_we_write(tokenizer: Tokenizer, save: Save) -> None:
    import transformers

    gpt = random_model("LlamaForCausalLM", tokenizer.vocab_size)
    found, _ = come_in(save(gpt, "gpt/theirs"))
    go_out(found, gpt)
    write = transformers.pipeline("text-generation", str(found.path.parent / "out"))
    text = write("the sea", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert text.startswith("the sea")
    bert = random_model("BertForMaskedLM", tokenizer.vocab_size)
    found, ours = come_in(save(bert, "bert/theirs"))
    go_out(found, bert)
    fill = transformers.pipeline("fill-mask", str(found.path.parent / "out"))
    best = fill("the [MASK] was")[0]["token"]
    before, after = (tokenizer.encode(text).tolist() for text in ("the", " was"))
    ids = [tokenizer.cls_id, *before, tokenizer.mask_id, *after, tokenizer.sep_id]
    assert int(ours(torch.tensor([ids]))[0, len(before) + 1].argmax()) == best


EXPORTED = {
    "our default": ({}, "ArceeForCausalLM"),
    "gpt2": ({"preset": "gpt2-124m", "layers": 2, "width": 32, "heads": 4}, "GPT2LMHeadModel"),
    "llama": ({"preset": "llama-tiny", "width": 32, "heads": 4, "kv_heads": 2}, "LlamaForCausalLM"),
    "window": ({"activation": "swiglu", "window": 8}, "MistralForCausalLM"),
    "window in some": (
        {"activation": "swiglu", "window": 8, "global_every": 2, "biases": "qkv", "layers": 5},
        "Qwen2ForCausalLM",
    ),
    "qk_norm": ({"activation": "geglu", "qk_norm": True, "head_size": 24}, "Qwen3ForCausalLM"),
    "qk_norm, no gate": ({"activation": "relu2", "qk_norm": True}, "ApertusForCausalLM"),
    "bert": ({"preset": "bert-tiny"}, "BertForPreTraining"),
    "bert without pairs": ({"preset": "bert-tiny", "next_sentence": False}, "BertForMaskedLM"),
}


@pytest.mark.parametrize("case", EXPORTED)
def test_where_a_model_of_ours_goes(case: str) -> None:
    """Names and shapes of the table are those of the model."""
    fields, name = EXPORTED[case]
    settings = ModelSettings.model_validate({"layers": 2, **fields})
    architecture = architecture_for(settings)
    assert architecture.name == name
    model = make_model(settings, 100)
    weights = {weight.ours: weight.shape for weight in architecture.weights(settings, 100)}
    assert weights == {name: tuple(p.shape) for name, p in model.named_parameters()}
    # config.json gives back every field that changes results.
    back = ModelSettings.model_validate(architecture.settings(architecture.config(settings)))
    same = (
        "head_width", "groups", "inner", "causal", "layers", "width", "context", "position", "rotary", "norm",
        "norm_at", "activation", "qk_norm", "window", "global_every", "tied", "dropout", "next_sentence",
    )  # fmt: skip
    assert [getattr(back, field) for field in same] == [getattr(settings, field) for field in same]
    for part in ("qkv", "attention", "feed_forward"):
        assert back.has_bias(part) == settings.has_bias(part)  # type: ignore[arg-type]
