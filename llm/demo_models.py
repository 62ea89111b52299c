"""What the demo asks of the models that it has trained, each by the command that anyone would type."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.places import write_json
from llm.demo_stages import ask, call, is_newer, read_json

PROMPTS = ("def __init__(self", "import ", "class ")
MASKED = ("def __init__([MASK], name):", "for i in [MASK](10):", "if x is [MASK] None:", "[MASK] os, sys")
SWEEP_RECIPE = "demo-sweep"


def evaluate(run: Path, result: Path) -> None:
    """What the final checkpoint is worth on the validation documents."""
    if is_newer(result, run):
        print(f"evaluate: already done, {result}")
        return
    found = ask("llm.evaluate", str(run), "--json")[-1]
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


def judge(run: Path, result: Path) -> None:
    """How many pairs of the test part a fine-tuned model tells right; kept in its folder, for its page."""
    if is_newer(result, run):
        print(f"evaluate: already done, {result}")
        return
    found = ask("llm.evaluate", str(run), "--split", "test", "--json")[-1]
    write_json(result, found)


def generate(run: Path, result: Path) -> None:
    """What the final checkpoint writes after each prompt."""
    if is_newer(result, run):
        print(f"generate: already done, {result}")
        return
    texts = []
    for prompt in PROMPTS:
        found = ask("llm.generate", str(run), "--prompt", prompt, "--tokens", "120", "--json")[-1]
        texts.append({"prompt": prompt, "text": found["text"]})
    write_json(result, {"texts": texts})


def fill(run: Path, result: Path) -> None:
    """What the final checkpoint of the BERT puts in the place of each mask."""
    if is_newer(result, run):
        print(f"generate: already done, {result}")
        return
    prompts = [word for text in MASKED for word in ("--prompt", text)]
    write_json(result, {"fillings": ask("llm.generate", str(run), *prompts, "--json")})


def tune_from_nothing(sweep: Path, run: Path) -> None:
    """Fine-tune with the best settings of a sweep, from fresh weights: what pretraining is compared with."""
    best = read_json(sweep / "summary.json")["best"]["settings"]
    record = run / "settings.json"
    call("llm.finetune", *words_from_nothing(best, run, read_json(record) if record.is_file() else None))


def words_from_nothing(best: Mapping[str, Any], run: Path, record: Mapping[str, Any] | None) -> list[str]:
    """What is typed behind llm.finetune. `record`: of the run that is there already.

    One with other settings, since the sweep was done anew, is set aside.
    """
    words = [SWEEP_RECIPE, "--finetune.from_scratch", "true", "--finetune.out", str(run)]
    words += [word for name, value in best.items() for word in (f"--{name}", flag_text(value))]
    is_another = record is not None and any(setting(record, name) != value for name, value in best.items())
    return [*words, "--fresh"] if is_another else words


def setting(record: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name in the record of a run; None where there is none."""
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def flag_text(value: Any) -> str:
    """A setting's value as a flag takes it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
