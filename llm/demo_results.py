"""The demo's results: summary.json, the page, and what is printed at the end."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.places import to_json, write_bytes
from llm.demo_stages import read_json
from llm.pages.corpus import corpus_numbers, total
from llm.pages.journey import baseline_rows, guess_words, journey_body, judge_rows
from llm.pages.page import finite, page
from llm.pages.sweep_numbers import sweep_numbers
from llm.pages.training import run_numbers


@dataclass(frozen=True)
class Folders:
    """Where the demo's parts lie."""

    home: Path
    corpus: Path
    gpt: Path
    bert: Path
    sweep: Path
    from_nothing: Path

    @property
    def pairs(self) -> Path:
        return self.home / "pairs"

    @property
    def best(self) -> Path:
        """The sweep's best trial, a run folder."""
        return self.sweep / "best"

    @property
    def told(self) -> Path:
        """What the best tells of the test part."""
        return self.best / "evaluation.json"

    @property
    def told_from_nothing(self) -> Path:
        """What the run from fresh weights tells of it."""
        return self.from_nothing / "evaluation.json"

    def result(self, name: str) -> Path:
        """The file that one of the demo's own parts leaves."""
        return self.home / f"{name}.json"


def draw(at: Folders, budgets: Mapping[str, float]) -> dict[str, Any]:
    """Write summary.json, report.json and report.html; files that would not change stay untouched.

    Returns the numbers of report.json.
    """
    names = ("evaluation", "guesses", "texts", "fillings", "baselines", "seconds")
    results = {name: read_json(at.result(name)) for name in names}
    corpus, run, bert = corpus_numbers(at.corpus), run_numbers(at.gpt), run_numbers(at.bert)
    sweep, pairs = sweep_numbers(at.sweep), read_json(at.pairs / "pairs.json")
    summary = assemble_summary(
        corpus, run, results["evaluation"], results["baselines"], budgets, results["seconds"]
    )
    summary["bert"] = summarise_bert(bert, results["guesses"])
    summary["sweep"] = summarise_sweep(
        sweep, read_json(at.told), read_json(at.told_from_nothing), pairs["parts"]["test"]
    )
    numbers: dict[str, Any] = finite(
        {
            "summary": summary,
            "corpus": corpus,
            "run": run,
            "bert": bert,
            "pairs": pairs,
            "sweep": sweep,
            "texts": results["texts"]["texts"],
            "fillings": results["fillings"]["fillings"],
        }
    )
    body, charts = journey_body(numbers)
    lead = "Python's own standard library, prepared, trained on, fine-tuned on and evaluated on this machine."
    html = page("From raw text to a trained GPT and BERT", lead, body, charts)
    write_changed(at.home / "report.html", html.encode())
    write_changed(at.home / "report.json", to_json(numbers))
    write_changed(at.home / "summary.json", to_json(numbers["summary"]))
    return numbers


def assemble_summary(
    corpus: Mapping[str, Any],
    run: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    baselines: Mapping[str, Any],
    budgets: Mapping[str, float],
    seconds: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The demo's summary.json, without its BERT and what became of that."""
    documents, gpt, key = corpus["counts"]["documents"], run["summary"], run["key_numbers"]
    return {
        "corpus": {
            "documents_in": documents["in"],
            "documents_out": documents["out"],
            "dropped": documents["dropped"],
            "train_tokens": total(corpus, "tokens", "train"),
            "val_tokens": total(corpus, "tokens", "val"),
            "shards": total(corpus, "shards"),
        },
        "gpt": {
            **{name: gpt[name] for name in ("parameters", "workers", "zero_stage")},
            "steps": key["steps"],
            "first_val_loss": key["first_val_loss"],
            "val_loss": key["val_loss"],
            "bits_per_byte": evaluation["bits_per_byte"],
            "tokens_per_second": key["tokens_per_second"],
        },
        "baselines": {name: baselines[name] for name in ("gzip_bits_per_byte", "xz_bits_per_byte")},
        "seconds": {
            name: {"budget": budget, "spent": seconds.get(name, {}).get("spent")}
            for name, budget in budgets.items()
        },
    }


def summarise_bert(run: Mapping[str, Any], guesses: Mapping[str, Any]) -> dict[str, Any]:
    """The demo's BERT: what it guesses right, with the 95 % interval of the next sentence accuracy."""
    measured = (
        "mlm_loss", "masked_accuracy", "unigram_accuracy", "masked_tokens", "nsp_accuracy",
        "nsp_accuracy_interval", "pairs",
    )  # fmt: skip
    trained = ("parameters", "workers", "zero_stage", "tokens_per_second")
    return {
        **{name: run["summary"][name] for name in trained},
        "steps": run["key_numbers"]["steps"],
        **{name: guesses[name] for name in measured},
    }


def summarise_sweep(
    sweep: Mapping[str, Any],
    told: Mapping[str, Any],
    from_nothing: Mapping[str, Any],
    test: Mapping[str, Any],
) -> dict[str, Any]:
    """The sweep, and its best beside the two that know less, all on the same test part.

    Precision, recall and F1 are macro averages: on balanced pairs a guess that is always the same then has
    F1 1/3 whichever it is, where that of the one class would be 2/3 or nothing.
    """
    return {
        "trials": sweep["key_numbers"]["trials"],
        "stopped_early": sweep["key_numbers"]["stopped_early"],
        "average": "macro",
        "pairs": test["pairs"],
        "best": {"settings": sweep["best"]["settings"], **scores_of(told)},
        "f1_intervals": {"best": f1_interval(told), "from_scratch": f1_interval(from_nothing)},
        "from_scratch_accuracy": scores_of(from_nothing)["accuracy"],
        "from_scratch_f1": scores_of(from_nothing)["f1"],
        "majority_accuracy": max(test["own"], test["other"]) / test["pairs"],
        "majority_f1": constant_f1([test["own"], test["other"]]),
    }


def scores_of(told: Mapping[str, Any]) -> dict[str, float]:
    """accuracy, precision, recall, f1 of what `llm.evaluate` found."""
    metrics = {name: each["value"] for name, each in told["metrics"].items()}
    macro = {name: metrics[f"{name}_macro"] for name in ("precision", "recall", "f1")}
    return {"accuracy": metrics["accuracy"], **macro}


def f1_interval(told: Mapping[str, Any]) -> list[float]:
    """The 95 % interval of F1, over resampled pairs."""
    return [told["metrics"]["f1_macro"][end] for end in ("low", "high")]


def constant_f1(counts: Sequence[int]) -> float:
    """Macro F1 of always guessing the most frequent class: that class' 2p / (1 + p), over all classes."""
    share = max(counts) / sum(counts)
    return 2 * share / (1 + share) / len(counts)


def print_results(numbers: Mapping[str, Any], home: Path) -> None:
    """Texts, fillings, bits per byte beside the compressors, pairs told, and where the page is."""
    summary = numbers["summary"]
    for text in numbers["texts"]:
        print(f"\n--- after {text['prompt']!r}\n{text['text']}")
    print("\n--- what the BERT puts in place of [MASK]")
    for filling in numbers["fillings"]:
        for mask in filling["masks"]:
            first = mask["candidates"][0]
            print(f"{filling['prompt']:<32}{guess_words(first['text'], first['probability'])}")
    print("\nValidation documents    bits per byte")
    for name, bits in baseline_rows(summary):
        print(f"{name:<24}{bits:13.3f}")
    bert = summary["bert"]
    low, high = bert["nsp_accuracy_interval"]
    print(
        f"\nBERT: masked tokens right {bert['masked_accuracy']:.3f} (the most frequent token: "
        f"{bert['unigram_accuracy']:.3f}), next sentence right {bert['nsp_accuracy']:.3f} of "
        f"{bert['pairs']:,} pairs (95 %: {low:.3f} to {high:.3f})"
    )
    pairs = f"{summary['sweep']['pairs']:,} pairs"
    print(f"\nDoes the docstring belong to the function? {pairs:<13}accuracy      F1")
    for name, accuracy, f1 in judge_rows(summary["sweep"]):
        print(f"{name:<56}{accuracy:8.3f}{f1:8.3f}")
    spent, budget = (sum(s[what] or 0 for s in summary["seconds"].values()) for what in ("spent", "budget"))
    print(f"\nAll stages: {spent:.0f} s of work (budget {budget:.0f} s)")
    print(f"Page: {(home / 'report.html').resolve()}")


def print_next(at: Folders) -> None:
    """What to type now."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    print(f"""
Next, for example:
  {python} -m llm.generate {at.gpt} --prompt "def "
  {python} -m llm.generate {at.bert} --prompt "import [MASK]"
  {python} -m llm.report {at.sweep}
  {python} -m llm.export {at.gpt} {at.home}/hf
Your own text: README.md""")


def write_changed(path: Path, data: bytes) -> None:
    """Write a file unless it holds these bytes already."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)
