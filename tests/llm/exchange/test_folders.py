"""The two commands, and what they refuse: by name, before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster import places
from cluster.errors import RunError, UserError
from cluster.places import ObjectPath
from data_jobs.tokens.tokenizer import Tokenizer
from llm import evaluate, export, generate, import_hf
from llm.exchange.architectures import architecture_for
from llm.exchange.exporting import Source, export_model
from llm.exchange.importing import import_model
from llm.exchange.model_folder import new_folder, read_imported
from llm.model import make_model
from llm.settings import ModelSettings
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from llm.train.run_folder import FORMAT
from llm.training_settings import OptimizerSettings
from tests.llm.exchange.conftest import CONTEXT, Save, random_model

SETTINGS = {
    "layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "activation": "swiglu", "context": CONTEXT,
    "tied": False, "init": "normal", "init_std": 0.2,
}  # fmt: skip


@pytest.fixture
def theirs(tokenizer: Tokenizer, save: Save) -> Path:
    return save(random_model("LlamaForCausalLM", tokenizer.vocab_size))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, **changes: Any) -> None:
    """Set tensors; None removes one."""
    tensors = load_file(folder / "model.safetensors") | changes
    save_file({n: t for n, t in tensors.items() if t is not None}, folder / "model.safetensors")


@pytest.fixture
def run_folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A run with a checkpoint at step 3, and a newer one that is damaged."""
    settings = ModelSettings.model_validate(SETTINGS)
    run = tmp_path / "run"
    tokenizer.save(run / "tokenizer")
    record = {
        "format": FORMAT,
        "model": settings.model_dump(mode="json"),
        "pretrain": {"length": CONTEXT},
        "corpus": {
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "path": "corpus",
            "clean": {"form": "none", "control_characters": "keep"},
        },
    }
    (run / "settings.json").write_text(json.dumps(record))
    for step in (3, 4):
        model = make_model(settings, tokenizer.vocab_size, seed=step)
        engine = PlainEngine(Objective(model, "fp32"), OptimizerSettings(), 1)
        saver = CheckpointSaver(run / "checkpoints", engine, 0, 1, f"{step:012x}", Keep(2), {})
        saver.save(RunState(step, 0, 0, ""))
        saver.finish()
    newest = run / "checkpoints" / f"step-{4:09d}-{4:012x}" / "weights-0-of-1.safetensors"
    data = bytearray(newest.read_bytes())
    data[-100] ^= 1
    newest.write_bytes(data)
    return run


def test_a_run_goes_out_and_comes_in(
    run_folder: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert export.main([str(run_folder), str(tmp_path / "out"), "--shard-size", "40KB", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["architecture"] == "LlamaForCausalLM"
    assert "passed over" in said.err  # the damaged one
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ours = make_model(ModelSettings.model_validate(SETTINGS), tokenizer.vocab_size, seed=3)
    text = "the sea\n    was calm"
    ids = AutoTokenizer.from_pretrained(tmp_path / "out")(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == [tokenizer.eos_id, *tokenizer.encode(text).tolist()]
    with torch.no_grad():
        assert (theirs(ids).logits - ours(ids)).abs().max() < 1e-5
    assert theirs.generation_config.eos_token_id == tokenizer.eos_id

    assert import_hf.main([str(tmp_path / "out"), str(tmp_path / "back")]) == 0
    assert "LlamaForCausalLM, 2 layers, width 32" in capsys.readouterr().out
    back = read_imported(tmp_path / "back")
    again = make_model(back.settings, back.vocab_size)
    back.fill(again)
    assert all(torch.equal(p, dict(ours.named_parameters())[name]) for name, p in again.named_parameters())

    # A checkpoint by its path; an imported model; in half precision.
    checkpoint = run_folder / "checkpoints" / f"step-{3:09d}-{3:012x}"
    for number, source in enumerate((checkpoint, tmp_path / "back")):
        export.main([str(source), str(tmp_path / f"more{number}"), "--dtype", "bfloat16"])
        half = AutoModelForCausalLM.from_pretrained(tmp_path / f"more{number}")
        expected = {name: tensor.bfloat16() for name, tensor in theirs.state_dict().items()}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in half.state_dict().items())


def texts_of(run: Path, prompts: list[str], capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """What `llm.generate` says to prompts."""
    capsys.readouterr()
    given = [part for prompt in prompts for part in ("--prompt", prompt)]
    generate.main([str(run), *given, *flags, "--json"])
    return [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()]


def theirs_of(folder: Path, prompts: list[str], tokens: int, ours: Tokenizer) -> list[str]:
    """What transformers says, called as everybody calls it; spelled by us.

    For a random model writes bytes that are no UTF-8, and their decoder shows those in its own way.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = (kind.from_pretrained(folder) for kind in (AutoTokenizer, AutoModelForCausalLM))
    rows = [tokenizer(prompt, return_tensors="pt") for prompt in prompts]
    assert [tokenizer.decode(row["input_ids"][0], skip_special_tokens=True) for row in rows] == prompts
    return [ours.decode(model.generate(**row, max_new_tokens=tokens)[0].tolist()) for row in rows]


def test_a_run_and_its_export_say_the_same(
    run_folder: Path, tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Greedy texts of the run, of transformers, of the import and of its export; the loss of a text."""
    prompts, out, back, twice = ["", "the sea", "  a\n    ship "], *(tmp_path / n for n in ("o", "b", "t"))
    export.main([str(run_folder), str(out)])
    import_hf.main([str(out), str(back)])
    export.main([str(back), str(twice)])
    flags = ("--temperature", "0", "--tokens", "25")
    expected = texts_of(run_folder, prompts, capsys, *flags)
    assert len({*expected, *prompts}) == 6
    assert texts_of(back, prompts, capsys, *flags) == expected
    for folder in (out, twice):
        assert theirs_of(folder, prompts, 25, tokenizer) == expected
    # Drawn texts, too: what must never be written is the same.
    flags = ("--tokens", "25", "--temperature", "2", "--top-k", "0")
    assert texts_of(back, prompts, capsys, *flags) == texts_of(run_folder, prompts, capsys, *flags)

    (tmp_path / "text").write_text("the sea was calm\n    and wide " * 9)
    losses = []
    for path in (run_folder, back):
        evaluate.main([str(path), "--text", str(tmp_path / "text"), "--precision", "fp32", "--json"])
        losses.append(json.loads(capsys.readouterr().out))
    assert losses[0]["loss"] == losses[1]["loss"] and losses[0]["tokens"] == losses[1]["tokens"]


def test_what_must_never_be_written_is_read(theirs: Path, tmp_path: Path) -> None:
    file = theirs / "generation_config.json"
    file.write_text('{"suppress_tokens": [5, 9]}')
    import_model(theirs, tmp_path / "ours")
    assert read_imported(tmp_path / "ours").run_settings()["suppressed"] == [5, 9]
    export.main([str(tmp_path / "ours"), str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["suppress_tokens"] == [5, 9]
    file.write_text('{"suppress_tokens": "5"}')
    with pytest.raises(UserError, match="generation_config.json: suppress_tokens is '5'"):
        import_model(theirs, tmp_path / "other")


def test_a_bert_and_its_export_fill_masks_alike(
    tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The likeliest tokens of `llm.generate` and of transformers, with blanks before and after masks."""
    from transformers import AutoModelForPreTraining, AutoTokenizer

    settings = ModelSettings.model_validate(
        {"kind": "bert", "layers": 2, "width": 32, "heads": 4, "context": CONTEXT, "init_std": 0.2}
    )
    model = make_model(settings, tokenizer.vocab_size, seed=3)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    weights = {name: p.detach() for name, p in model.named_parameters()}
    export_model(Source(settings, tokenizer, shapes, weights.__getitem__), tmp_path / "out", 10**9)
    import_hf.main([str(tmp_path / "out"), str(tmp_path / "ours")])
    prompts = ["the [MASK] of a run", "the[MASK] of", "[MASK] sea", "a  [MASK] [MASK].", "a\n    [MASK] b"]
    capsys.readouterr()
    given = [part for prompt in prompts for part in ("--prompt", prompt)]
    generate.main([str(tmp_path / "ours"), *given, "--json"])
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    theirs = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    never = list(tokenizer.specials.values())  # as `llm.generate` says: no special fills a mask
    for prompt, found in zip(prompts, said, strict=True):
        row = words(prompt, return_tensors="pt")
        at = (row["input_ids"][0] == words.mask_token_id).nonzero().flatten().tolist()
        assert at == [mask["position"] for mask in found["masks"]], prompt
        with torch.no_grad():
            logits = theirs(**row).prediction_logits[0, at]
        logits[:, never] = -torch.inf
        shares, tokens = logits.softmax(-1).topk(5)
        for mask, share, token in zip(found["masks"], shares.tolist(), tokens.tolist(), strict=True):
            assert [candidate["token"] for candidate in mask["candidates"]] == token, prompt
            probabilities = [candidate["probability"] for candidate in mask["candidates"]]
            assert probabilities == pytest.approx(share, rel=1e-3)


def test_nothing_is_written_over(run_folder: Path, theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x")
    for command, source in ((export, run_folder), (import_hf, theirs)):
        with pytest.raises(UserError, match="nothing is written over"):
            command.main([str(source), str(tmp_path / "full")])
        (tmp_path / "empty").mkdir(exist_ok=True)
        command.main([str(source), str(tmp_path / "empty")])
        shutil.rmtree(tmp_path / "empty")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_send_that_was_cut_short_is_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command sends it, and what is left of the first is gone; not so where others' files are."""
    out, write_file = places.at(bucket) / "out", ObjectPath.write_file
    assert isinstance(out, ObjectPath)

    def make(*names: str) -> None:
        with new_folder(out, "last") as tmp:
            for name in names:
                (tmp / name).parent.mkdir(exist_ok=True)
                (tmp / name).write_text(name)

    def cut_short(self: ObjectPath, file: Path) -> None:
        if self.name == "last":
            raise places.PlaceError(str(self), "writing failed on purpose")
        write_file(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "write_file", cut_short)
        for names in (("a/b", "last"), ("a/c", "last")):
            with pytest.raises(RunError, match="on purpose"):
                make(*names)
    places.write_bytes(out / "notes", b"mine")
    with pytest.raises(UserError, match="there is something already"):
        make("a/b", "last")
    (out / "notes").unlink()
    make("a/b", "last")
    assert sorted(out.sizes()) == ["a/b", "last"]
    with pytest.raises(UserError, match="there is something already"):
        make("a/b", "last")


def test_a_failure_leaves_nothing(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm.exchange import importing

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(importing, "write_bytes", fail)
    before = set(tmp_path.iterdir())
    with pytest.raises(OSError, match="disk full"):
        import_model(theirs, tmp_path / "ours")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"position": "alibi"}, "model.position is 'alibi', there it is 'rotary'"),
        (
            {"softcap": 30.0, "activation": "swiglu"},
            "nearest is LlamaForCausalLM: model.softcap is 30.0, there it is None",
        ),
        ({"norm_at": "post", "activation": "swiglu"}, "model.norm_at is 'post', there it is 'pre'"),
        (
            {"biases": "qkv", "activation": "swiglu", "qk_norm": True},
            "Qwen2.*model.qk_norm is True, there it is False|Qwen3.*model.biases is 'qkv', there it is",
        ),
        (
            {"kind": "bert", "activation": "geglu"},
            "nearest is BertForPreTraining: model.activation is 'geglu', there it is one without a gate",
        ),
        (
            {"kind": "bert", "position": "rotary", "norm": "rmsnorm", "norm_at": "pre", "biases": "none"},
            "BertForPreTraining: model.position is 'rotary', there it is 'learned'; model.norm is 'rmsnorm', "
            "there it is 'layernorm'; model.norm_at is 'pre', there it is 'post'; model.biases is 'none', "
            "there it is 'all'",
        ),
        (
            {"kind": "bert", "norm": "rmsnorm", "next_sentence": False},
            "nearest is BertForMaskedLM: model.norm is",
        ),
    ],
)
def test_a_switch_that_no_architecture_has(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        architecture_for(ModelSettings.model_validate({"layers": 2, **fields}))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"architectures": ["OPTForCausalLM"]},
            "OPTForCausalLM cannot be imported; known are GPT2LMHeadModel, ",
        ),
        ({"architectures": None, "model_type": "opt"}, "model_type 'opt' cannot be imported"),
        ({"hidden_act": "quick_gelu"}, "activation 'quick_gelu'"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "rope_type 'longrope'"),
        (
            {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "attention_factor": 2.0}},
            "attention_factor is 2.0",
        ),
        ({"num_attention_heads": "four"}, "a field has a value of another kind"),
        ({"num_attention_heads": 0}, "a field has a value of another kind|heads"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differ between layers"),
        ({"hidden_size": 30}, "heads .* must divide width|should be"),
        ({"num_hidden_layers": 4}, r"missing: model\.layers\.3\.input_layernorm\.weight, .* and 5 more"),
        ({"num_hidden_layers": 2}, r"left over: model\.layers\.2\.input_layernorm\.weight, .* and 5 more"),
        ({"intermediate_size": 44}, r"mlp\.down_proj\.weight is \[32, 40\], should be \[32, 44\]"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from model.embed_tokens.weight"),
    ],
)
def test_a_config_that_does_not_fit(changes: dict[str, Any], says: str, theirs: Path, tmp_path: Path) -> None:
    edit_config(theirs, **changes)
    with pytest.raises(UserError, match=says) as error:
        import_model(theirs, tmp_path / "ours")
    assert str(theirs) in str(error.value) and len(str(error.value)) < 700
    assert not (tmp_path / "ours").exists()


def test_files_that_do_not_fit(theirs: Path, tmp_path: Path) -> None:
    def refused(says: str) -> None:
        with pytest.raises(UserError, match=says):
            import_model(theirs, tmp_path / "ours")

    weights, config = theirs / "model.safetensors", theirs / "config.json"
    good, good_config = weights.read_bytes(), config.read_bytes()
    edit_weights(theirs, **{"model.norm.weight": None})
    refused("missing: model.norm.weight")
    edit_weights(theirs, **{"model.norm.weight": torch.ones(32, dtype=torch.int32)})
    refused("model.norm.weight holds whole numbers")
    weights.write_bytes(good[:-9])
    refused("not a safetensors file, or a damaged one")
    weights.rename(theirs / "pytorch_model.bin")
    refused("only pytorch_model.bin.*safe_serialization=True")
    (theirs / "pytorch_model.bin").unlink()
    refused("no weights here")
    (theirs / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    refused("gone.safetensors: missing")
    (theirs / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    refused("outside of the folder")
    (theirs / "model.safetensors.index.json").unlink()
    weights.write_bytes(good)
    config.write_text("{")
    refused("config.json: no JSON")
    config.unlink()
    refused("config.json: missing")
    config.write_bytes(good_config)
    (theirs / "tokenizer.json").unlink()
    refused("no tokenizer here")
    with pytest.raises(UserError, match="no such folder"):
        import_hf.main(["gpt2", str(tmp_path / "ours")])


def test_a_tokenizer_of_another_model(tokenizer: Tokenizer, save: Save, tmp_path: Path) -> None:
    folder = save(random_model("LlamaForCausalLM", tokenizer.vocab_size - 1))
    with pytest.raises(UserError, match="400 entries, model.embed_tokens.weight 399 rows"):
        import_model(folder, tmp_path / "ours")


def test_a_changed_model_folder_is_not_opened(theirs: Path, tmp_path: Path) -> None:
    import_model(theirs, tmp_path / "ours")
    weights, record = tmp_path / "ours" / "weights.safetensors", tmp_path / "ours" / "model.json"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(RunError, match="it was changed"):
        read_imported(tmp_path / "ours")
    weights.write_bytes(good)
    record.write_bytes(record.read_bytes().replace(b'"layers":3', b'"layers":4'))
    with pytest.raises(RunError, match="it was changed"):
        read_imported(tmp_path / "ours")
    with pytest.raises(UserError, match="cannot be read"):
        read_imported(tmp_path / "nothing")


def test_heads_that_are_not_there_start_anew(tokenizer: Tokenizer, save: Save, tmp_path: Path) -> None:
    theirs = random_model(
        "BertForSequenceClassification", tokenizer.vocab_size, id2label={0: "no", 1: "yes"},
        label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    import_model(save(theirs), tmp_path / "ours")
    found = read_imported(tmp_path / "ours")
    assert found.record["fresh"] == ["lm_transform.", "lm_head.", "next_head."]
    assert found.record["labels"] == {"0": "no", "1": "yes"}
    model, fresh = (make_model(found.settings, found.vocab_size, seed=5) for _ in range(2))
    found.fill(model)
    same = {n for n, p in model.named_parameters() if torch.equal(p, dict(fresh.named_parameters())[n])}
    assert same == {n for n, _ in model.named_parameters() if n.startswith(tuple(found.record["fresh"]))}
    export.main([str(tmp_path / "ours"), str(tmp_path / "out")])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes"} and config["label2id"] == {"no": 0, "yes": 1}


def test_no_run_no_checkpoint_no_size(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="nothing: no such folder"):
        export.main([str(tmp_path / "nothing"), str(tmp_path / "out")])
    shutil.rmtree(run_folder / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint yet"):
        export.main([str(run_folder), str(tmp_path / "out")])
    for size in ("0", "1XB", "-3MB"):
        with pytest.raises(SystemExit):
            export.main([str(run_folder), str(tmp_path / "out"), f"--shard-size={size}"])
    assert "is no size" in capsys.readouterr().err
