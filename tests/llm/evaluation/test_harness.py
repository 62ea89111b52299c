"""lm-evaluation-harness on models of ours: what its own Hugging Face backend says of the exported model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import llm
from cluster.errors import RunError, UserError
from llm import export, harness
from llm.evaluation.harness import import_harness, make_lm, written
from llm.model import make_model
from tests.llm.evaluation.run_folders import finetuned, pretrained, write_run
from tests.llm.tasks.example_sets import LENGTH, shape, tokenizer

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"context": "the sea was", "choices": ["calm", "a stone", "rain and wind"], "answer": 0},
    {"context": "the ship\n    left the harbour", "choices": ["été", "light"], "answer": 1},
    {"context": "a cloud ", "choices": ["stone", "the sea"], "answer": 1},
    {"context": "word " * 60, "choices": ["rain", "wind of the sea"], "answer": 0},
]
TEXTS = ["the sea was calm", "a cloud", "été " * 40, "1 2 3"]
CHOICE = """task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: " "
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ROLLING = """task: read
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: bits_per_byte}]
"""
WRITING = """task: go_on
dataset_path: json
dataset_kwargs: {data_files: {test: "%s"}}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12}
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Task files with their data beside them."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, template, rows in (
        ("choose", CHOICE, QUESTIONS), ("read", ROLLING, [{"text": text} for text in TEXTS]),
        ("go_on", WRITING, QUESTIONS),
    ):  # fmt: skip
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / f"{name}.yaml").write_text(template % data, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT that writes words, and no single bytes: those and the specials have logit 0."""
    llama, mine = shape(kv_heads=1, activation="swiglu", tied=False), tokenizer()
    model: Any = make_model(llama, mine.vocab_size, seed=3)
    silent = [n for n in range(mine.vocab_size) if mine.is_byte(n) or n in mine.specials.values()]
    model.lm_head.weight.data[silent] = 0
    return write_run(tmp_path_factory.mktemp("gpt") / "run", llama, model, {"pretrain": {"length": LENGTH}})


@pytest.fixture(scope="module")
def theirs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The harness' own backend on the exported model."""
    out = tmp_path_factory.mktemp("out") / "model"
    assert export.main([str(run), str(out)]) == 0
    import_harness()
    from lm_eval.models.huggingface import HFLM

    return lambda **options: HFLM(pretrained=str(out), device="cpu", batch_size=3, **options)


def asking(*pairs: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


PAIRS = [(question["context"], f" {choice}") for question in QUESTIONS for choice in question["choices"]] + [
    ("", "the sea"),
    ("the sea", " was calm, and the wind was light"),
    ("a  ", "b"),
]


def test_likelihoods_are_those_of_its_hugging_face_backend(run: Path, theirs: Any) -> None:
    ours = make_lm(llm.load(run), batch=4).loglikelihood(asking(*PAIRS))
    wanted = theirs().loglikelihood(asking(*PAIRS), disable_tqdm=True)
    assert [nats for nats, _ in ours] == pytest.approx([nats for nats, _ in wanted], abs=1e-4)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in wanted]


def test_greedy_continuations_are_greedy_in_both(run: Path, theirs: Any) -> None:
    lm, other = make_lm(llm.load(run)), theirs()
    contexts = [question["context"][:40] for question in QUESTIONS]
    told = lm.generate_until(asking(*[(text, {"max_gen_toks": 6, "until": []}) for text in contexts]))
    pairs = [(text, more) for text, more in zip(contexts, told, strict=True) if more]
    assert pairs, "nothing was written, so nothing can be greedy"
    ours, wanted = lm.loglikelihood(asking(*pairs)), other.loglikelihood(asking(*pairs), disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in wanted]
    assert any(greedy for _, greedy in ours)


def test_whole_texts_are_those_of_its_hugging_face_backend(run: Path, theirs: Any) -> None:
    """With `add_bos_token` it would predict the start of a text as well, from itself. With its cache of
    logits, windows that are equal give others of their batch a wrong number: the third text has such.
    """
    texts = asking(*[(text,) for text in TEXTS])
    ours = make_lm(llm.load(run)).loglikelihood_rolling(texts)
    wanted = theirs(add_bos_token=False, logits_cache=False).loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours == pytest.approx(wanted, abs=1e-3, rel=1e-6)


def test_what_is_written_is_what_its_hugging_face_backend_writes(run: Path, theirs: Any) -> None:
    requests = asking(*[(q["context"], {"until": ["\n"], "max_gen_toks": 12}) for q in QUESTIONS])
    ours = make_lm(llm.load(run)).generate_until(requests)
    assert ours == theirs().generate_until(requests, disable_tqdm=True)
    assert any(ours)


def test_the_command_runs_tasks_of_this_disk(
    run: Path, theirs: Any, tasks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(run), "--tasks", "choose,go_on", "--tasks", "read", "--include_path", str(tasks)]
    assert harness.main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["step"] == 5 and found["samples"] == {"choose": 4, "go_on": 4, "read": 4}
    lm_eval = import_harness()
    manager = lm_eval.tasks.TaskManager(include_path=str(tasks), include_defaults=False)
    wanted = lm_eval.simple_evaluate(theirs(), tasks=["choose", "go_on"], task_manager=manager)["results"]
    for task, metrics in (("choose", ("acc", "acc_norm")), ("go_on", ("exact_match",))):
        for name in metrics:
            assert found["tasks"][task][name] == pytest.approx(wanted[task][f"{name},none"])
    assert found["tasks"]["read"]["bits_per_byte"] > 0
    assert harness.main([*given, "--limit", "2"]) == 0
    words = capsys.readouterr().out
    assert "choose, 2 samples, step 5" in words and "acc  " in words and "standard error" in words


def test_a_bert_answers_by_pseudo_likelihoods(tasks: Path, tmp_path: Path) -> None:
    run = pretrained(tmp_path / "run", shape("bert"), LENGTH)
    lm = make_lm(llm.load(run))
    found = lm.loglikelihood(asking(*PAIRS[:3], ("", "the sea")))
    assert all(nats < 0 for nats, _ in found)
    [whole] = lm.loglikelihood_rolling(asking(("the sea",)))
    assert whole == pytest.approx(found[-1][0], abs=1e-4), "a text is what follows nothing"
    with pytest.raises(UserError, match="a bert writes none"):
        lm.generate_until(asking(("the sea", {"max_gen_toks": 3})))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"max_gen_toks": LENGTH}, "lower it in the task's file"),
        ({"max_gen_toks": 4, "num_beams": 2}, "have num_beams"),
        ({"max_gen_toks": 4, "do_sample": True, "temperature": -1.0}, "temperature must be"),
    ],
)
def test_what_generation_cannot_do_is_refused(run: Path, given: dict[str, Any], says: str) -> None:
    loaded = llm.load(run)
    with pytest.raises(UserError, match=says):
        written(loaded, loaded.model, [("the sea", given)], 2)  # type: ignore[arg-type]


def test_models_without_likelihoods_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the head of a task"):
        make_lm(llm.load(finetuned("classification", tmp_path)))
    with pytest.raises(RunError, match="tokens are asked for"):
        make_lm(llm.load(run)).loglikelihood(asking(("the sea", " stone" * 80)))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--tasks", "chose"], "did you mean 'choose'"),
        (["--tasks", "choose", "--limit", "0"], "--limit must be at least 1"),
        (["--tasks", "choose", "--include_path", "/nowhere"], "no such folder"),
    ],
)
def test_what_the_command_refuses(run: Path, tasks: Path, flags: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        harness.main([str(run), "--include_path", str(tasks), *flags])
