"""Fine-tuned models go to transformers and peft, and are trained as transformers trains them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llm
from cluster.errors import UserError
from data_jobs.tokens.tokenizer import Tokenizer, load_tokenizer
from llm import export, generate
from llm.exchange.importing import import_model
from llm.exchange.model_folder import read_imported
from llm.finetune_settings import FinetuneSettings
from llm.model import GPT, Model, make_model
from llm.model.inputs import Inputs
from llm.model.task_model import Head
from llm.model.tasks import choose_trainable, fill_body, make_task_model
from llm.settings import ModelSettings
from llm.tasks.chat import Chat
from llm.tasks.example_fields import Message
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from llm.train.run_folder import FORMAT
from llm.train.start import check_writes, find_start
from llm.training_settings import OptimizerSettings
from tests.llm.exchange.conftest import CONTEXT, Save, random_model

SIZES = {"layers": 2, "width": 32, "heads": 4, "context": CONTEXT, "init_std": 0.2}
SHAPES: dict[str, dict[str, Any]] = {
    "bert": {"kind": "bert", **SIZES, "init": "normal"},
    "gpt2": {"preset": "gpt2-124m", **SIZES},
    "llama": {"activation": "swiglu", "kv_heads": 2, "tied": False, "init": "normal", **SIZES},
}
RATE = 5e-3
LABELS = ["no", "perhaps", "yes"]


def write_run(
    run: Path, tokenizer: Tokenizer, shape: str, task: dict[str, Any], rank: int = 0, seed: int = 5
) -> Model:
    """A fine-tuned run as the trainer leaves it, at step 3; its model, whose adapters do something."""
    model = ModelSettings.model_validate(SHAPES[shape])
    settings = FinetuneSettings.model_validate({"task": task, "lora": {"rank": rank}})
    outputs = {"regression": 1, "question_answering": 2}.get(settings.task.kind, len(LABELS))
    instruction = settings.task.kind == "instruction"
    head = None if instruction else Head(settings.task.kind, outputs, settings.task.loss, 0.1)
    made = make_task_model(model, tokenizer.vocab_size, head, seed, settings.lora)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("lora_b") or parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    choose_trainable(made, settings)
    named = [] if settings.task.kind in ("regression", "question_answering", "instruction") else LABELS
    record = {
        "format": FORMAT,
        "model": model.model_dump(mode="json"),
        "finetune": settings.model_dump(mode="json"),
        "task": {
            "kind": settings.task.kind,
            "labels": named,
            "head": None if head is None else asdict(head),
            "lora": settings.lora.model_dump(mode="json") if rank else None,
        },
        "corpus": {
            "tokenizer": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "path": None,
            "clean": {"form": "none", "control_characters": "keep"},
        },
    }
    tokenizer.save(run / "tokenizer")
    (run / "settings.json").write_text(json.dumps(record))
    engine = PlainEngine(Objective(made, "fp32"), OptimizerSettings(), 1)
    saver = CheckpointSaver(run / "checkpoints", engine, 0, 1, "ab" * 6, Keep(2), {})
    saver.save(RunState(3, 0, 0, ""))
    saver.finish()
    return made.eval()


def rows_of(tokenizer: Tokenizer, shape: str, texts: list[tuple[str, str | None]]) -> Inputs:
    """As examples become rows: [CLS] a [SEP] b [SEP]; eos a eos b eos."""
    rows, kinds = [], []
    eos = tokenizer.eos_id
    for first, second in texts:
        parts = [tokenizer.encode(part).tolist() for part in (first, second) if part is not None]
        if shape == "bert":
            row = [tokenizer.cls_id, *parts[0], tokenizer.sep_id]
            after = [*parts[1], tokenizer.sep_id] if second is not None else []
        else:
            row, after = [eos, *parts[0], eos], [*parts[1], eos] if second is not None else []
        rows.append(row + after)
        kinds.append([0] * len(row) + [1] * len(after))
    width = max(map(len, rows))
    pad = tokenizer.pad_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    documents = torch.tensor([[0] * len(row) + [1] * (width - len(row)) for row in rows])
    if shape != "bert":
        return Inputs(ids, positions=torch.tensor([[len(row) - 1] for row in rows]), documents=documents)
    segments = torch.tensor([kind + [0] * (width - len(kind)) for kind in kinds])
    return Inputs(ids, documents=documents, segments=segments)


TEXTS: list[tuple[str, str | None]] = [
    ("the sea was calm", "a ship"),
    ("a", "the sea"),
    ("calm calm sea", "no"),
]
KINDS = {
    "classification": "ForSequenceClassification",
    "multi_label": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "token_classification": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}
CASES = [("bert", kind) for kind in KINDS] + [
    ("gpt2", "classification"), ("gpt2", "token_classification"), ("gpt2", "question_answering"),
    ("llama", "multi_label"), ("llama", "question_answering"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "kind"), CASES)
@pytest.mark.parametrize("rank", [0, 3])
def test_a_fine_tuned_run_goes_out(
    shape: str, kind: str, rank: int, tokenizer: Tokenizer, tmp_path: Path, capsys: Any
) -> None:
    """The class with the head, its labels; from a text the same logits there, through its own tokenizer."""
    import transformers

    ours = write_run(tmp_path / "run", tokenizer, shape, {"kind": kind}, rank)
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out"), "--json"]) == 0
    name = json.loads(capsys.readouterr().out)["architecture"]
    assert name == {"bert": "Bert", "gpt2": "GPT2", "llama": "Llama"}[shape] + KINDS[kind]
    cls = getattr(transformers, f"AutoModel{KINDS[kind]}")
    theirs, report = cls.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(theirs).__name__ == name
    assert not any(report[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    config = theirs.config
    if kind in ("classification", "multi_label", "token_classification"):
        assert config.id2label == dict(enumerate(LABELS)) and config.label2id["yes"] == 2
    if kind in ("classification", "multi_label", "regression"):
        problem = {"classification": "single_label_classification", "regression": "regression"}
        assert config.problem_type == problem.get(kind, "multi_label_classification")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    given = words([a for a, _ in TEXTS], [b for _, b in TEXTS], padding=True, return_tensors="pt")
    rows = rows_of(tokenizer, shape, TEXTS)
    assert torch.equal(given["input_ids"], rows.ids)
    with torch.no_grad():
        found = theirs.eval()(**given)
        expected = ours.outputs(rows)
    if kind == "question_answering":
        logits = torch.stack((found.start_logits, found.end_logits), 2)
    else:
        logits = found.logits
    assert rows.documents is not None
    shown = rows.documents == 0 if expected.dim() == 3 else slice(None)
    torch.testing.assert_close(logits[shown], expected[shown], rtol=1e-5, atol=1e-5)


def test_one_text_ends_with_an_eos_for_a_head(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    write_run(tmp_path / "run", tokenizer, "llama", {"kind": "classification"})
    export.main([str(tmp_path / "run"), str(tmp_path / "out")])
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = [tokenizer.eos_id, *tokenizer.encode("the sea").tolist(), tokenizer.eos_id]
    assert words("the sea")["input_ids"] == ids
    again = load_tokenizer(tmp_path / "out").ending_with_eos([tokenizer.eos_id])  # type: ignore[attr-defined]
    assert again.text_start == [tokenizer.eos_id]
    again.save(tmp_path / "again")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert words("the sea")["input_ids"] == ids
    assert words("the sea", "a")["input_ids"] == [*ids, *tokenizer.encode("a").tolist(), tokenizer.eos_id]


def test_an_instruction_model_goes_out_as_a_gpt(tokenizer: Tokenizer, tmp_path: Path) -> None:
    import transformers

    ours = write_run(tmp_path / "run", tokenizer, "llama", {"kind": "instruction"}, 4)
    export.main([str(tmp_path / "run"), str(tmp_path / "out")])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(7, tokenizer.vocab_size, (2, 9))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), rtol=1e-5, atol=1e-5)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    said = [("user", "the sea?"), ("assistant", "calm"), ("user", "a ship?")]
    messages = [{"role": role, "content": content} for role, content in said]
    shown = words.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    chat = Chat(None, tokenizer, [tokenizer.eos_id])
    asked = chat.prompt([Message(role, content) for role, content in said])
    assert words.decode(shown) == words.decode(asked)
    marks = [at for at, token in enumerate(asked) if token == tokenizer.eos_id]
    assert len(marks) == 2 and [shown.count(tokenizer.eos_id), shown[0]] == [2, tokenizer.eos_id]


@pytest.mark.parametrize(("shape", "kind"), [("bert", "classification"), ("gpt2", "instruction")])
@pytest.mark.filterwarnings("ignore")
def test_adapters_alone_go_to_peft(shape: str, kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """On the model that the training began with: its logits are then those of the run."""
    import peft
    import transformers

    ours = write_run(tmp_path / "run", tokenizer, shape, {"kind": kind}, 3)
    assert export.main([str(tmp_path / "run"), str(tmp_path / "adapter"), "--adapter"]) == 0
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    ours_now = ours.state_dict()
    settings = ModelSettings.model_validate(SHAPES[shape])
    start = make_model(settings, tokenizer.vocab_size, seed=1)
    same = {n: ours_now.get(n, t) for n, t in start.state_dict().items()}  # but for heads that it has not got
    start.load_state_dict(same)
    base = exported_base(start, tokenizer, tmp_path / "base")
    auto = transformers.AutoModelForCausalLM
    options: dict[str, Any] = {}
    if kind == "classification":
        auto, options = transformers.AutoModelForSequenceClassification, {"num_labels": 3}
    loaded = peft.PeftModel.from_pretrained(
        auto.from_pretrained(base, **options), tmp_path / "adapter"
    ).eval()
    rows = rows_of(tokenizer, shape, [("the sea", None), ("calm", None)])
    assert rows.documents is not None
    with torch.no_grad():
        found = loaded(rows.ids, attention_mask=(rows.documents == 0).long()).logits
        expected = ours(rows.ids) if isinstance(ours, GPT) else ours.outputs(rows)
    shown = rows.documents == 0 if expected.dim() == 3 else slice(None)
    torch.testing.assert_close(found[shown], expected[shown], rtol=1e-5, atol=1e-5)


def exported_base(model: Model, tokenizer: Tokenizer, out: Path) -> Path:
    from llm.exchange.exporting import Source, export_model

    tensors = dict(model.named_parameters())
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    source = Source(model.settings, tokenizer, shapes, lambda name: tensors[name].detach())
    export_model(source, out, 10**9)
    return out


def test_adapters_that_are_not_there(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_run(tmp_path / "run", tokenizer, "bert", {"kind": "classification"})
    with pytest.raises(UserError, match="was trained without adapters"):
        export.main([str(tmp_path / "run"), str(tmp_path / "out"), "--adapter"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["classification", "instruction"])
def test_a_fine_tuned_run_is_loaded_and_started_from(kind: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """By `llm.load` with its adapters; as a start with these merged: the body computes the same."""
    shape = "bert" if kind == "classification" else "llama"
    ours = write_run(tmp_path / "run", tokenizer, shape, {"kind": kind}, 3)
    if kind == "classification":
        with pytest.raises(UserError, match="fine-tuned for classification, and writes no text"):
            generate.main([str(tmp_path / "run"), "--prompt", "the"])
    loaded = llm.load(str(tmp_path / "run")).model
    rows = rows_of(tokenizer, shape, TEXTS)
    assert type(loaded) is type(ours)
    with torch.no_grad():
        assert torch.equal(loaded(rows.ids), ours(rows.ids))
    start = find_start(str(tmp_path / "run"))
    weights = start.weights()
    assert not [name for name in weights if "lora" in name]
    again = make_task_model(start.settings, start.vocab_size, Head("token_classification", 4), 9).eval()
    if kind == "classification":
        assert fill_body(again, weights) == ["head.weight", "head.bias"]
    else:
        again = make_model(start.settings, start.vocab_size).eval()  # type: ignore[assignment]
        start.fill(again)
    with torch.no_grad():
        torch.testing.assert_close(again.hidden(rows.ids), ours.hidden(rows.ids), rtol=1e-5, atol=1e-5)
    if kind == "classification":
        with pytest.raises(UserError, match="fine-tuned for classification and has no output layer"):
            check_writes(start, "run")
    else:
        check_writes(start, "run")


def weights_by_group(named: Any) -> list[dict[str, Any]]:
    """As our optimizer's groups are: weight decay of matrices alone."""
    parameters = [p for _, p in named]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]


def test_twenty_steps_as_transformers_makes_them(tokenizer: Tokenizer, save: Save) -> None:
    """An imported BERT, fine-tuned by our engine, and the same folder by transformers: losses within 1e-4."""
    import transformers

    folder = save(random_model("BertForPreTraining", tokenizer.vocab_size))
    import_model(folder, folder.parent / "ours")
    start = find_start(str(folder.parent / "ours"))
    settings = start.settings.model_copy(update={"dropout": 0.0})
    ours = make_task_model(settings, start.vocab_size, Head("classification", 3), seed=2)
    assert fill_body(ours, start.weights()) == ["head.weight", "head.bias"]
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    ).train()
    with torch.no_grad():
        theirs.classifier.weight.copy_(ours.head.weight)  # type: ignore[union-attr]
        theirs.classifier.bias.copy_(ours.head.bias)  # type: ignore[union-attr]
    engine = PlainEngine(Objective(ours, "fp32"), OptimizerSettings(lr=RATE, beta2=0.999, clip=1.0), 1)
    optimizer = torch.optim.AdamW(weights_by_group(theirs.named_parameters()), lr=RATE, betas=(0.9, 0.999))
    losses: list[tuple[float, float]] = []
    for step in range(20):
        rows, labels = batch_of(tokenizer, step)
        found = theirs(
            rows.ids, attention_mask=1 - rows.documents, token_type_ids=rows.segments, labels=labels
        )  # fmt: skip
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        inputs = rows._replace(targets=labels[:, None], weights=torch.ones(len(labels), 1))
        sums = engine.accumulate(inputs, torch.tensor([1 / len(labels)]), last=True)
        engine.norm()
        engine.step(RATE)
        losses.append((sums.item() / len(labels), found.loss.item()))
    for step, (our, their) in enumerate(losses):
        assert our == pytest.approx(their, abs=1e-4), step
    assert losses[-1][0] < losses[0][0] - 0.1, "nothing was learnt, so equality says little"


def batch_of(tokenizer: Tokenizer, step: int) -> tuple[Any, Tensor]:
    """Pairs of random words; each class has words of its own."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 3, (8,), generator=generator)
    words = torch.randint(20, 50, (8, 13), generator=generator) + 50 * labels[:, None]
    ids = torch.cat([torch.full((8, 1), tokenizer.cls_id), words], 1)
    lengths = torch.randint(5, 15, (8, 1), generator=generator)
    there = torch.arange(14) < lengths
    segments = ((torch.arange(14) >= lengths // 2) & there).long()
    ids = torch.where(there, ids, tokenizer.pad_id)
    return Inputs(ids, documents=(~there).long(), segments=segments), labels


def test_an_imported_classifier_gives_its_body(tokenizer: Tokenizer, save: Save) -> None:
    """Its own classifier stays aside: the new head begins anew."""
    folder = save(random_model("BertForSequenceClassification", tokenizer.vocab_size, num_labels=3))
    import_model(folder, folder.parent / "ours")
    assert read_imported(folder.parent / "ours").aside().keys() == {"classifier.weight", "classifier.bias"}
    start = find_start(str(folder.parent / "ours"))
    assert "classifier.weight" not in start.weights() and start.task is None
    model = make_task_model(start.settings, start.vocab_size, Head("regression", 1))
    assert fill_body(model, start.weights()) == ["head.weight", "head.bias"]
