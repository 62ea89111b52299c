"""The demo: raw text to a trained model on this machine, by the same commands that anyone would type."""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cluster.errors import RunError, Stopped, run_command
from cluster.places import to_json, write_bytes, write_json
from cluster.recipe import load_recipe
from data_jobs import open_corpus
from llm.pages.corpus import corpus_numbers, total
from llm.pages.journey import baseline_rows, guess_words, journey_body
from llm.pages.page import finite, page
from llm.pages.training import run_numbers

HOME = Path("runs/demo")
PROMPTS = ("def __init__(self", "import ", "class ")
MASKED = ("def __init__([MASK], name):", "for i in [MASK](10):", "if x is [MASK] None:", "[MASK] os, sys")


@dataclass(frozen=True)
class Stage:
    """One part of the demo, with its budget in seconds on a machine with two cores.

    `marks`: files that are all there once the work is done, and whose bytes change only when it is done anew.
    """

    name: str
    budget: float
    marks: tuple[Path, ...]
    work: Callable[[], object]


class CommandFailed(Exception):
    """A command ended with a status that is not 0."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def main(argv: list[str]) -> int:
    argparse.ArgumentParser(
        prog="python -m llm.demo",
        description="Prepare Python's own standard library, pretrain a small GPT and a small BERT on it, "
        f"evaluate them (the GPT beside gzip and xz), and draw {HOME}/report.html. A second run finds the "
        "work done.",
    ).parse_args(argv)
    recipe = load_recipe("demo")
    corpus, run = Path(recipe.out("corpus")), Path(recipe.out("pretrain"))
    bert = Path(load_recipe("demo-bert").out("pretrain"))
    stages = demo_stages(corpus, run, bert)
    for number, stage in enumerate(stages, start=1):
        print(f"\n[{number}/{len(stages)}] {stage.name} (budget {stage.budget:.0f} s)", flush=True)
        try:
            run_stage(stage, HOME / "seconds.json")
        except CommandFailed as failure:
            print(
                f"demo: '{stage.name}' ended with status {failure.status}; make demo continues",
                file=sys.stderr,
            )
            return failure.status
    budgets = {stage.name: stage.budget for stage in stages}
    print_results(*draw(corpus, run, bert, budgets))
    print_next(run, bert)
    return 0


def demo_stages(corpus: Path, run: Path, bert: Path) -> list[Stage]:
    """The journey from text to numbers. The budgets add up to less than ten minutes."""
    evaluation, texts, baselines = (HOME / f"{name}.json" for name in ("evaluation", "texts", "baselines"))
    guesses, fillings = HOME / "guesses.json", HOME / "fillings.json"
    return [
        Stage("prepare", 50, (corpus / "manifest.json",), lambda: call("data_jobs.prepare", "demo")),
        Stage(
            "pretrain",
            265,
            (run / "summary.json", run / "metrics.jsonl"),
            lambda: call("llm.pretrain", "demo"),
        ),
        Stage(
            "pretrain a bert",
            165,
            (bert / "summary.json", bert / "metrics.jsonl"),
            lambda: call("llm.pretrain", "demo-bert"),
        ),
        Stage(
            "evaluate",
            50,
            (evaluation, guesses),
            lambda: for_both(evaluate, (run, evaluation), evaluate, (bert, guesses)),
        ),
        Stage(
            "generate",
            50,
            (texts, fillings),
            lambda: for_both(generate, (run, texts), fill, (bert, fillings)),
        ),
        Stage("compress", 10, (baselines,), lambda: compress(corpus, baselines)),
    ]


def for_both(
    first: Callable[[Path, Path], None], its: tuple[Path, Path],
    second: Callable[[Path, Path], None], others: tuple[Path, Path],
) -> None:  # fmt: skip
    """The GPT's part of a stage, then the BERT's."""
    first(*its)
    second(*others)


def run_stage(stage: Stage, ledger: Path) -> None:
    """Do a stage's work, and enter what it took in `ledger`, whether it ends well or not."""
    before, start = digest(stage.marks), time.monotonic()
    try:
        stage.work()
    finally:
        entries = read_json(ledger) if ledger.is_file() else {}
        entry = spent_after(entries.get(stage.name), time.monotonic() - start, before, digest(stage.marks))
        write_json(ledger, {**entries, stage.name: entry})


def spent_after(
    entry: Mapping[str, Any] | None, seconds: float, before: str | None, after: str | None
) -> dict[str, Any]:
    """A stage's entry {spent, finished} after a run of `seconds`, from the digests of its marks.

    Marks that stay as they were: the run found its work done, and the entry keeps what the work took. A run
    that goes on where one was stopped adds to it. Work that is done anew counts anew.
    """
    if before is not None and before == after and entry is not None:
        return dict(entry)
    earlier = entry["spent"] if entry is not None and not entry["finished"] else 0.0
    return {"spent": round(earlier + seconds, 2), "finished": after is not None}


def digest(marks: Sequence[Path]) -> str | None:
    """A digest of these files; None while one is missing."""
    if not all(path.is_file() for path in marks):
        return None
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in marks)).hexdigest()


def call(module: str, *arguments: str, capture: bool = False) -> str:
    """Run `python -m MODULE` with its output live, or returned. CommandFailed where the status is not 0."""
    command = [sys.executable, "-u", "-m", module, *arguments]
    print("$ python -m", module, *map(_quoted, arguments), flush=True)
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE if capture else None, text=True, encoding="utf-8"
    )
    try:
        output, _ = child.communicate()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():  # a terminal sends Ctrl-C to the child, too
            child.send_signal(signal.SIGINT)
        child.wait()
        raise
    except Stopped:
        child.terminate()
        child.wait()
        raise
    if child.returncode:
        raise CommandFailed(child.returncode if child.returncode > 0 else 128 - child.returncode)
    return output or ""


def evaluate(run: Path, result: Path) -> None:
    """What the final checkpoint is worth on the validation documents."""
    if is_newer(result, run):
        print(f"evaluate: already done, {result}")
        return
    output = call("llm.evaluate", str(run), "--json", capture=True)
    try:
        found = json.loads(output)
    except json.JSONDecodeError:
        raise RunError(f"python -m llm.evaluate {run} --json printed no JSON: {output[:200]!r}") from None
    write_json(result, found)
    if "bits_per_byte" in found:
        print(
            f"{found['bits_per_byte']:.4f} bits per byte, loss {found['loss']:.4f}, "
            f"{found['tokens']:,} tokens"
        )
    else:
        print(
            f"masked accuracy {found['masked_accuracy']:.4f}, next sentence accuracy "
            f"{found['nsp_accuracy']:.4f} over {found['pairs']:,} pairs"
        )


def generate(run: Path, result: Path) -> None:
    """What the final checkpoint writes after each prompt."""
    if is_newer(result, run):
        print(f"generate: already done, {result}")
        return
    texts = []
    for prompt in PROMPTS:
        found = json.loads(
            call("llm.generate", str(run), "--prompt", prompt, "--tokens", "120", "--json", capture=True)
        )
        texts.append({"prompt": prompt, "text": found["text"]})
    write_json(result, {"texts": texts})


def fill(run: Path, result: Path) -> None:
    """What the final checkpoint of the BERT puts in the place of each mask."""
    if is_newer(result, run):
        print(f"generate: already done, {result}")
        return
    prompts = [word for text in MASKED for word in ("--prompt", text)]
    found = [
        json.loads(line)
        for line in call("llm.generate", str(run), *prompts, "--json", capture=True).splitlines()
    ]
    write_json(result, {"fillings": found})


def is_newer(result: Path, run: Path) -> bool:
    """Whether `result` was written after the newest checkpoint of a run."""
    written = [index.stat().st_mtime_ns for index in run.glob("**/step-*/index.json")]
    return result.is_file() and bool(written) and result.stat().st_mtime_ns > max(written)


def compress(corpus: Path, result: Path) -> None:
    """The baselines: compressors over the validation documents as one stream."""
    corpus_id = read_json(corpus / "manifest.json")["corpus_id"]
    if result.is_file() and read_json(result).get("corpus_id") == corpus_id:
        print(f"compress: already done, {result}")
        return
    text = "".join(validation_documents(corpus)).encode()
    write_json(result, {"corpus_id": corpus_id, "bytes": len(text), **compressed_bits_per_byte(text)})


def validation_documents(path: Path) -> Iterator[str]:
    """The cleaned text of each validation document, as stored: source by source, shard by shard."""
    corpus = open_corpus(str(path), "read")
    for source in corpus.sources("val"):
        stream = corpus.stream(source, "val")
        tokens = stream.read(0, stream.tokens)
        ends = np.flatnonzero(tokens == corpus.tokenizer.eos_id)
        for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
            yield corpus.tokenizer.decode(tokens[start:end])


def compressed_bits_per_byte(text: bytes) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9, headers included (a few dozen bytes)."""
    if not text:
        raise RunError("the corpus has no validation text: raise corpus.val_fraction")
    sizes = {"gzip": len(gzip.compress(text, 9)), "xz": len(lzma.compress(text, preset=9))}
    return {f"{name}_bits_per_byte": 8 * size / len(text) for name, size in sizes.items()}


def draw(
    corpus: Path, run: Path, bert: Path, budgets: Mapping[str, float]
) -> tuple[dict[str, Any], list[dict[str, str]], list[dict[str, Any]]]:
    """Write summary.json, report.json and report.html; files that would not change stay untouched."""
    corpus_page, run_page, bert_page = corpus_numbers(corpus), run_numbers(run), run_numbers(bert)
    guesses, fillings = read_json(HOME / "guesses.json"), read_json(HOME / "fillings.json")["fillings"]
    evaluation, texts = read_json(HOME / "evaluation.json"), read_json(HOME / "texts.json")["texts"]
    baselines, seconds = read_json(HOME / "baselines.json"), read_json(HOME / "seconds.json")
    summary = finite(
        {
            **assemble_summary(corpus_page, run_page, evaluation, baselines, budgets, seconds),
            "bert": summarise_bert(bert_page, guesses),
        }
    )
    numbers = finite(
        {
            "summary": summary,
            "corpus": corpus_page,
            "run": run_page,
            "bert": bert_page,
            "texts": texts,
            "fillings": fillings,
        }
    )
    body, charts = journey_body(numbers)
    lead = "Python's own standard library, prepared, trained on and evaluated on this machine."
    write_changed(
        HOME / "report.html", page("From raw text to a trained GPT and BERT", lead, body, charts).encode()
    )
    write_changed(HOME / "report.json", to_json(numbers))
    write_changed(HOME / "summary.json", to_json(summary))
    return summary, texts, fillings


def assemble_summary(
    corpus: Mapping[str, Any],
    run: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    baselines: Mapping[str, Any],
    budgets: Mapping[str, float],
    seconds: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The demo's summary.json."""
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


def print_results(
    summary: Mapping[str, Any], texts: Sequence[Mapping[str, str]], fillings: Sequence[Mapping[str, Any]]
) -> None:
    """Texts, fillings, bits per byte beside the compressors, and where the page is."""
    for text in texts:
        print(f"\n--- after {text['prompt']!r}\n{text['text']}")
    print("\n--- what the BERT puts in place of [MASK]")
    for filling in fillings:
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
    spent, budget = (sum(s[what] or 0 for s in summary["seconds"].values()) for what in ("spent", "budget"))
    print(f"\nAll stages: {spent:.0f} s of work (budget {budget:.0f} s)")
    print(f"Page: {(HOME / 'report.html').resolve()}")


def print_next(run: Path, bert: Path) -> None:
    """What to type now."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    print(f"""
Next, for example:
  {python} -m llm.generate {run} --prompt "def "
  {python} -m llm.generate {bert} --prompt "import [MASK]"
  {python} -m llm.export {run} {HOME}/hf
Your own text: README.md""")


def write_changed(path: Path, data: bytes) -> None:
    """Write a file unless it holds these bytes already."""
    if not path.is_file() or path.read_bytes() != data:
        write_bytes(path, data)


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _quoted(argument: str) -> str:
    return repr(argument) if " " in argument else argument


if __name__ == "__main__":
    run_command(main)
