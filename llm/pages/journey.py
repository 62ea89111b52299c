"""The demo's numbers to the blocks and charts of its page: from documents to models beside baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm.pages import blocks
from llm.pages.charts import Chart, bar_axes, bars
from llm.pages.corpus import document_section, source_section
from llm.pages.sweep import short_names, sweep_sections
from llm.pages.training import sample_section, settings_section, training_sections


def journey_body(numbers: Mapping[str, Any]) -> tuple[str, list[Chart]]:
    """The demo's page: its HTML between header and footer, and its charts.

    `numbers`: `summary` (summary.json), `corpus`, `run`, `bert` and `sweep` (as for their own pages), `pairs`
    (pairs.json), `texts` (prompt, text), `fillings` (prompt, masks as llm.generate gives them).
    """
    summary = numbers["summary"]
    compression, seconds = baseline_chart(summary), budget_chart(summary["seconds"])
    judges = judge_chart(summary["sweep"])
    sweep, sweep_charts = sweep_sections(numbers["sweep"], "sweep-")
    documents, document_charts = document_section(numbers["corpus"])
    sources, source_charts = source_section(numbers["corpus"])
    training, training_charts = training_sections(numbers["run"], "Training of the GPT")
    bert, bert_charts = training_sections(numbers["bert"], "Training of the BERT", "bert-", switch=False)
    body = (
        blocks.tiles(journey_tiles(summary))
        + blocks.section("Bits per byte", compression.html())
        + text_section(numbers["texts"])
        + filling_section(numbers["fillings"], summary["bert"])
        + blocks.section(
            "Does the docstring belong to the function?",
            blocks.paragraph(pair_words(numbers["pairs"], summary["sweep"]), "note"),
            judges.html(),
        )
        + sweep
        + documents
        + sources
        + training
        + sample_section(numbers["run"]["samples"])
        + bert
        + blocks.section("Time", seconds.html())
        + settings_section(numbers["run"])
    )
    return body, [
        compression, judges, *sweep_charts, *document_charts, *source_charts, *training_charts, *bert_charts,
        seconds,
    ]  # fmt: skip


def journey_tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key numbers of the whole journey."""
    corpus, gpt, bert, sweep = (summary[name] for name in ("corpus", "gpt", "bert", "sweep"))
    spent = sum(stage["spent"] or 0 for stage in summary["seconds"].values())
    return [
        ("Documents in", blocks.number(corpus["documents_in"]), ""),
        ("Documents out", blocks.number(corpus["documents_out"]), ""),
        ("Training tokens", blocks.short(corpus["train_tokens"]), ""),
        ("Parameters", blocks.short(gpt["parameters"]), f"and a BERT of {blocks.short(bert['parameters'])}"),
        ("Workers", blocks.number(gpt["workers"]), zero_text(gpt["zero_stage"])),
        ("Steps", blocks.number(gpt["steps"]), ""),
        (
            "Validation loss",
            blocks.number(gpt["val_loss"], 3),
            f"from {blocks.number(gpt['first_val_loss'], 3)}",
        ),
        ("Bits per byte", blocks.number(gpt["bits_per_byte"], 3), "validation"),
        (
            "BERT: masked tokens right",
            blocks.number(bert["masked_accuracy"], 3),
            f"most frequent token: {blocks.number(bert['unigram_accuracy'], 2)}",
        ),
        (
            "BERT: next sentence right",
            blocks.number(bert["nsp_accuracy"], 3),
            f"of {blocks.number(bert['pairs'])} pairs; chance: 0.5",
        ),
        (
            "BERT: pairs told, F1",
            blocks.number(sweep["best"]["f1"], 3),
            f"from nothing: {blocks.number(sweep['from_scratch_f1'], 3)}",
        ),
        ("Throughput, median", blocks.short(gpt["tokens_per_second"]), "tokens/s"),
        ("All stages", blocks.duration(spent), ""),
    ]


def zero_text(stage: int | None) -> str:
    return "no ZeRO" if stage is None else f"ZeRO stage {stage}"


def baseline_chart(summary: Mapping[str, Any]) -> Chart:
    """The model beside two compressors on the same validation documents."""
    rows = baseline_rows(summary)
    return Chart(
        "baselines",
        "The validation documents in bits per byte: less is better",
        "gzip -9 and xz -9 read the validation documents as one stream and nothing else; the GPT has learned "
        "from the training documents, and its own size is not counted.",
        [
            bars("bits per byte", [row[1] for row in rows], [row[0] for row in rows],
                 ["--green" if row[0] == "GPT" else "--grey" for row in rows],
                 [blocks.number(row[1], 3) for row in rows]),
        ],
        bar_axes("bits per UTF-8 byte of the cleaned text", "predictor", len(rows)),
        ["predictor", "bits per byte"],
        rows,
    )  # fmt: skip


def baseline_rows(summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(predictor, bits per byte), the best first."""
    rows = [
        ("GPT", summary["gpt"]["bits_per_byte"]),
        ("gzip -9", summary["baselines"]["gzip_bits_per_byte"]),
        ("xz -9", summary["baselines"]["xz_bits_per_byte"]),
    ]
    return sorted(rows, key=lambda row: row[1])


def judge_chart(sweep: Mapping[str, Any]) -> Chart:
    """The best of the sweep beside the same from fresh weights and beside a guess, on the same test part."""
    rows = judge_rows(sweep)
    names, scores = [row[0] for row in rows], [row[2] for row in rows]
    ends = [*(sweep["f1_intervals"][key] for key in ("best", "from_scratch")), [scores[2]] * 2]
    spans = [*(f", 95 %: {low:.3f} to {high:.3f}" for low, high in ends[:2]), ""]
    return Chart(
        "judges",
        "Pairs of the test part told right: more is better",
        f"{sweep['pairs']:,} pairs of modules that no model has seen, half of them right. F1 is the "
        f"mean of both classes'; a coin has about 0.5. {judge_words(sweep)}",
        [
            {
                **bars("F1", scores, names, ["--green", "--blue", "--grey"],
                       [f"{score:.3f}{span}" for score, span in zip(scores, spans, strict=True)]),
                "textposition": "inside", "insidetextanchor": "start",
                "error_x": {
                    "type": "data", "symmetric": False, "color": "--text", "thickness": 1.5,
                    "array": [high - score for score, (_, high) in zip(scores, ends, strict=True)],
                    "arrayminus": [score - low for score, (low, _) in zip(scores, ends, strict=True)],
                },
            },
        ],
        {**bar_axes("F1, mean of both classes", "who guesses", len(rows)), "showlegend": False},
        ["who guesses", "accuracy", "F1", "F1 from (95 %)", "to"],
        [[*row, *each] for row, each in zip(rows, ends, strict=True)],
    )  # fmt: skip


def judge_words(sweep: Mapping[str, Any]) -> str:
    """What the intervals allow to say of the two trainings. A coin's F1 is 0.5, and less is no less."""
    low, high = sweep["f1_intervals"]["best"]
    fresh_low, fresh_high = sweep["f1_intervals"]["from_scratch"]
    if max(low, fresh_low) <= 0.5:
        return "Neither training is told apart from a coin: in so few steps the pairs were not learned."
    if low > fresh_high:
        return "From pretrained weights is better than from fresh ones."
    if high < fresh_low:
        return "From fresh weights is better than from pretrained ones."
    return "The intervals of pretrained and fresh weights overlap: these pairs do not tell which is better."


def judge_rows(sweep: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(who guesses, accuracy, F1): from pretrained weights, from fresh ones, and always the same."""
    return [
        ("pretrained, best of the sweep", sweep["best"]["accuracy"], sweep["best"]["f1"]),
        ("from nothing, same settings", sweep["from_scratch_accuracy"], sweep["from_scratch_f1"]),
        ("always the same", sweep["majority_accuracy"], sweep["majority_f1"]),
    ]


def pair_words(pairs: Mapping[str, Any], sweep: Mapping[str, Any]) -> str:
    """What the pairs are, and what the sweep tried."""
    parts, settings = pairs["parts"], sweep["best"]["settings"]
    names = short_names(list(settings))
    best = ", ".join(f"{names[name]} {blocks.number(value)}" for name, value in settings.items())
    sizes = ", ".join(
        f"{name} {parts[name]['pairs']:,} of {parts[name]['modules']:,} modules"
        for name in ("train", "val", "test")
    )
    return (
        f"A docstring beside its own function or another one: {sizes}. No module is in two parts, and those "
        "of the test part were held out of pretraining, too. "
        f"{sweep['trials']} trials, {sweep['stopped_early']} of them stopped early; the best with {best}."
    )


def budget_chart(seconds: Mapping[str, Mapping[str, float]]) -> Chart:
    """What each stage took when it did its work, beside what it may take."""
    names = list(seconds)
    spent = [seconds[name]["spent"] for name in names]
    budget = [seconds[name]["budget"] for name in names]
    total = sum(value or 0 for value in spent)
    return Chart(
        "budget",
        "Seconds by stage, against the budget",
        f"{blocks.duration(total)} spent of a budget of {blocks.duration(sum(budget))}. "
        "A stage that finds its work done keeps the time that the work took.",
        [
            bars("spent", spent, names, "--blue", [blocks.duration(value) for value in spent]),
            bars("budget", budget, names, "--grey", [blocks.duration(value) for value in budget]),
        ],
        {**bar_axes("seconds", "stage", len(names)), "height": 110 + 52 * len(names)},
        ["stage", "spent (seconds)", "budget (seconds)"],
        list(zip(names, spent, budget, strict=True)),
    )


def text_section(texts: list[dict[str, Any]]) -> str:
    """What the finished model writes."""
    cards = blocks.sample_cards(texts, [f"After “{text['prompt'].strip()}”" for text in texts])
    return blocks.section("What the finished model writes", cards) if texts else ""


def filling_section(fillings: list[dict[str, Any]], bert: Mapping[str, Any]) -> str:
    """What the BERT puts in the place of each mask, the likeliest first."""
    rows = [
        (
            filling["prompt"],
            ", ".join(guess_words(c["text"], c["probability"]) for c in mask["candidates"]),
        )
        for filling in fillings
        for mask in filling["masks"]
    ]
    note = blocks.paragraph(
        f"Masked loss {blocks.number(bert['mlm_loss'], 3)} nats; the probability of each guess beside it.",
        "note",
    )
    return blocks.section("What the BERT fills in", note, blocks.table(("text", "guesses"), rows, ""))


def guess_words(text: str, probability: float) -> str:
    """A guess for a person: newlines and blanks by name, a small probability as such."""
    shown = text.strip()
    if not shown:
        counts = (("newline", text.count("\n")), ("blank", text.count(" ")))
        found = [f"{n} {word}s" if n > 1 else f"a {word}" for word, n in counts if n]
        shown = f"({' and '.join(found) or 'nothing'})"
    share = "under 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"
    return f"{shown} {share}"
