"""The page of a sweep and of a fine-tuned run: numbers of the folder, importance against scipy, charts."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.errors import RunError, UserError
from llm.pages import importance, sweep, sweep_charts, sweep_numbers, task_numbers
from llm.pages.page import page
from llm.report import find_kind, write_report
from llm.train.run_folder import FORMAT
from tests.llm.folders import FINETUNE, HOSTILE, SPACE, trial_lines, write_run, write_sweep
from tests.llm.test_report import Elements, browse, check_charts, in_browser, specs_of

RATE, LOSS = SPACE


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "trials.csv").read_text())))


def test_report_json_has_the_numbers_of_the_table(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    assert find_kind(folder) == ("sweep", folder)
    html = write_report(folder).read_text()
    check_charts(html)
    numbers = json.loads((folder / "report.json").read_text())
    rows = rows_of(folder)
    assert [t["trial"] for t in numbers["trials"]] == [
        *(r["trial"] for r in sorted(rows[:-1], key=lambda row: -float(row["val_f1_macro"]))), "t11"
    ]  # fmt: skip
    by_name = {row["trial"]: row for row in rows}
    for trial in numbers["trials"][:-1]:
        row = by_name[trial["trial"]]
        assert trial["metrics"] == {name: float(row[name]) for name in ("val_loss", "val_f1_macro")}
        assert trial["settings"] == {RATE: float(row[RATE]), LOSS: row[LOSS]}
        assert (trial["status"], trial["step"]) == (row["status"], int(row["step"]))
    assert [t["rank"] for t in numbers["trials"]] == [*range(1, 12), None]
    assert numbers["trials"][-1]["metrics"] == {"val_loss": None, "val_f1_macro": None}
    key = numbers["key_numbers"]
    assert (key["trials"], key["stopped_early"], key["statuses"]["failed"]) == (12, 5, 1)
    assert key["start_seconds"] == 4.25 and key["seconds"] == pytest.approx(11 * 30.5 + 2)
    assert numbers["best"]["trial"] == "t10"
    assert html.index("1, best") < html.index("<td>t10</td>") and html.count("class=marked") == 1


def test_the_curves_are_those_of_the_trials(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    specs = specs_of(write_report(folder).read_text())
    drawn = {trace["name"]: trace for trace in specs["metric"]["traces"]}
    assert len(drawn) == 11 and "t10, best" in drawn  # the failed one has no curve
    lines = [line for line in trial_lines(120, 0.5) if "val_f1_macro" in line]
    assert drawn["t00"]["x"] == [line["step"] for line in lines]
    assert drawn["t00"]["y"] == [line["val_f1_macro"] for line in lines]
    losses = {trace["name"]: trace for trace in specs["losses"]["traces"]}
    assert losses["t01"]["x"] == list(range(1, 61))  # it was stopped
    assert losses["t10, best"]["line"]["color"] == "--green"


def test_parallel_coordinates_go_through_each_trials_settings(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    numbers = sweep_numbers.sweep_numbers(folder)
    chart = sweep_charts.parallel_chart(numbers, {RATE: "lr", LOSS: "loss"})
    assert chart is not None
    groups = {trace["name"]: trace for trace in chart.traces if trace["mode"] == "lines+markers"}
    assert set(groups) == {"best (1)", "finished (5)", "stopped early (5)", "failed (1)"}
    best = groups["best (1)"]["y"]
    rates = [trial["settings"][RATE] for trial in numbers["trials"]]
    share = np.log(numbers["best"]["settings"][RATE] / min(rates)) / np.log(max(rates) / min(rates))
    assert best == [pytest.approx(share), pytest.approx(best[1]), 1.0, None]
    assert groups["failed (1)"]["y"][2] is None  # it reached nothing
    assert chart.layout["xaxis"]["ticktext"] == ["lr", "loss", "val_f1_macro"]
    assert {"cross_entropy", "hinge"} <= {note["text"] for note in chart.layout["annotations"]}


def test_a_setting_with_one_value_has_no_axis(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    text = (folder / "trials.csv").read_text().replace("cross_entropy", "hinge")
    (folder / "trials.csv").write_text(text)
    numbers = sweep_numbers.sweep_numbers(folder)
    chart = sweep_charts.parallel_chart(numbers, {})
    assert chart is not None and chart.layout["xaxis"]["ticktext"] == [RATE, "val_f1_macro"]
    assert [each["setting"] for each in numbers["importance"]] == [RATE]


@pytest.mark.parametrize("seed", range(6))
def test_importance_of_numbers_is_spearmans_squared(seed: int) -> None:
    chance = np.random.default_rng(seed)
    values = chance.integers(0, 6, 25).astype(float)  # with ties
    metric = np.round(values * chance.normal(1, 1, 25), 1)
    [found] = importance.importances({"a": values.tolist()}, metric.tolist())
    rho, p = stats.spearmanr(values, metric)
    assert found.share == pytest.approx(rho**2, abs=1e-12) and found.direction == pytest.approx(rho)
    assert found.chance == pytest.approx(p, abs=0.05)
    assert np.allclose(importance.ranks(values), stats.rankdata(values))


@pytest.mark.parametrize("seed", range(6))
def test_importance_of_names_is_the_share_between_groups(seed: int) -> None:
    chance = np.random.default_rng(seed)
    values = [("a", True, None)[i] for i in chance.integers(0, 3, 25)]
    metric = np.round(chance.normal(0, 1, 25) + [seed / 3 * (v == "a") for v in values], 1)
    [found] = importance.importances({"a": values}, metric.tolist())
    groups = [[m for m, v in zip(metric, values, strict=True) if v is each] for each in ("a", True, None)]
    h, p = stats.kruskal(*groups)
    assert found.share == pytest.approx(h / (len(metric) - 1), abs=1e-12) and found.direction is None
    assert found.chance == pytest.approx(p, abs=0.05)
    assert "Kruskal" in found.method


def test_what_matters_comes_first_and_what_says_nothing_is_likely_chance() -> None:
    chance = np.random.default_rng(1)
    rate, noise = chance.permutation(40).astype(float), chance.permutation(40).astype(float)
    found = importance.importances(
        {"noise": noise.tolist(), "rate": rate.tolist(), "fixed": [1] * 40}, (rate**3).tolist()
    )
    assert [each.setting for each in found] == ["rate", "noise"]
    assert found[0].share == pytest.approx(1) and found[0].chance < 0.001 < 0.05 < found[1].chance


def test_nothing_is_explained_where_nothing_can_be() -> None:
    assert importance.importances({"a": [1, 2]}, [0.1, 0.2]) == []
    assert importance.importances({"a": [1, 2, 3]}, [0.5, 0.5, 0.5]) == []
    assert importance.importances({"a": [1, 1, 1]}, [0.1, 0.2, 0.3]) == []


@pytest.mark.parametrize(
    ("trials", "words"), [(3, "2 trials have the metric, too few"), (6, "5 trials have the metric, few: ")]
)
def test_few_trials_are_said_to_be_few(tmp_path: Path, trials: int, words: str) -> None:
    html = write_report(write_sweep(tmp_path / "sweep", trials)).read_text()
    assert words in html
    check_charts(html)
    assert ("importance" in specs_of(html)) == (trials > 3)
    assert "trials have the metric" not in write_report(write_sweep(tmp_path / "b", 12)).read_text()


def test_a_sweep_that_has_begun(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    (folder / "summary.json").unlink()
    numbers = sweep_numbers.sweep_numbers(folder)
    assert numbers["best"]["trial"] == "t10" and numbers["key_numbers"]["stopped_early"] == 5
    assert "not finished yet" in write_report(folder).read_text()
    (folder / "trials.csv").unlink()
    html = write_report(folder).read_text()
    assert "No trial has begun yet." in html and specs_of(html) == {}


def test_lower_is_better_where_the_mode_says_so(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    record = json.loads((folder / "sweep.json").read_text())
    (folder / "sweep.json").write_text(json.dumps({**record, "metric": "val_loss", "mode": "min"}))
    (folder / "summary.json").unlink()
    numbers = sweep_numbers.sweep_numbers(folder)
    losses = [trial["metrics"]["val_loss"] for trial in numbers["trials"][:-1]]
    assert losses == sorted(losses) and numbers["best"]["trial"] == numbers["trials"][0]["trial"]


LINEAGE = [
    {
        "step": 40,
        "trial": "t03",
        "from": "t10",
        "from_step": 60,
        "old": {RATE: 0.1, LOSS: "hinge"},
        "new": {RATE: 0.002, LOSS: "hinge"},
        "time": 1.0,
    },
    {
        "step": 80,
        "trial": "t00",
        "from": "t03",
        "from_step": 80,
        "old": {RATE: 0.1},
        "new": {RATE: 0.003},
        "time": 2.0,
    },
]


def test_a_population_shows_who_goes_on_from_whom(tmp_path: Path) -> None:
    lines = "".join(json.dumps(line) + "\n" for line in LINEAGE)
    folder = write_sweep(tmp_path / "sweep", **{"lineage.jsonl": lines})
    html = write_report(folder).read_text()
    check_charts(html)
    spec = specs_of(html)["lineage"]
    names = spec["layout"]["yaxis"]["ticktext"]
    arrows = [
        (a["ax"], names[a["ay"]], a["x"], names[a["y"]]) for a in spec["layout"]["annotations"]
    ]  # fmt: skip
    assert arrows == [(60, "t10", 40, "t03"), (80, "t03", 80, "t00")]
    [marks] = [trace for trace in spec["traces"] if trace["mode"] == "markers"]
    assert marks["text"][0] == f"t03 from t10 at its step 60: {RATE} 0.002"
    assert json.loads((folder / "report.json").read_text())["lineage"] == LINEAGE
    assert "lineage" not in specs_of(write_report(write_sweep(tmp_path / "b")).read_text())


@pytest.mark.parametrize(
    ("text", "value"),
    [("", None), ("0.5", 0.5), ("3", 3), ("true", True), ("True", True), ("hinge", "hinge"),
     ("[1, 2]", [1, 2]), ("1e-4", 1e-4), ("inf", float("inf"))],
)  # fmt: skip
def test_cells_of_a_table(text: str, value: Any) -> None:
    found = sweep_numbers.as_value(text)
    assert found == value and type(found) is type(value)


def test_names_are_as_short_as_they_can_be() -> None:
    names = ["finetune.optimizer.lr", "finetune.lora.rank", "finetune.task.dropout", "model.task.dropout"]
    short = sweep.short_names([*names[:3]])
    assert list(short.values()) == ["lr", "rank", "dropout"]
    assert sweep.short_names(names)["finetune.task.dropout"] == "task.dropout"


def test_hostile_text_in_a_sweep_stays_text(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    text = io.StringIO()
    rows = rows_of(folder)
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    for i, row in enumerate(rows):
        writer.writerow({**row, LOSS: HOSTILE + str(i % 2)})
    (folder / "trials.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    html = write_report(folder).read_text()
    elements = Elements(html)
    assert "img" not in elements.tags and elements.handlers == [] and elements.tags.count("script") == 3
    assert "".join(elements.data).count(HOSTILE) >= 12
    spec = json.dumps(specs_of(html)["parallel"])
    assert "<img" not in spec and "&lt;img" in spec


def test_a_damaged_sweep_is_named(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep", **{"summary.json": "{"})
    with pytest.raises(RunError, match=r"summary\.json: damaged"):
        write_report(folder)
    (folder / "sweep.json").write_text('{"format": "manta-sweep-9"}')
    with pytest.raises(UserError, match="manta-sweep-9"):
        write_report(folder)


def test_equal_sweeps_give_equal_pages(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "sweep")
    assert write_report(folder).read_bytes() == write_report(folder).read_bytes()


EXAMPLES = {
    "format": "manta-examples-1", "digest": "ab", "kind": "classification", "labels": ["no", "yes"],
    "parts": {
        "train": {"examples": 90, "rows": 90, "tokens": 900, "truncated": 3, "windows": 0,
                  "left_out": {"empty_text": 2}, "class_counts": {"no": 60, "yes": 30}},
        "test": {"examples": 20, "rows": 20, "tokens": 200, "truncated": 0, "windows": 0, "left_out": {},
                 "class_counts": {"no": 12, "yes": 8}},
    },
    "class_weights": None, "notes": ["classes are not balanced: no 67 %"],
}  # fmt: skip


EVALUATION = {
    "data": "test part", "step": 120, "kind": "classification", "examples": 20, "rows": 20,
    "metrics": {"accuracy": {"value": 0.75, "low": 0.55, "high": 0.9}, "f1_macro": {"value": 0.74}},
    "confusion": [[9, 3], [2, 6]],
    "classes": [
        {"label": "no", "precision": 9 / 11, "recall": 0.75, "f1": 0.78, "examples": 12, "guessed": 11},
        {"label": "yes", "precision": 6 / 9, "recall": 0.75, "f1": 0.71, "examples": 8, "guessed": 9},
    ],
}  # fmt: skip


def write_finetuned(run: Path, evaluation: dict[str, Any] | None = None) -> Path:
    """The folder of a fine-tuned run."""
    settings = {
        "format": FORMAT, "run_id": "r", "finetune": FINETUNE,
        "task": {"kind": "classification", "labels": ["no", "yes"]},
        "examples": {"path": str(run.parent / "examples"), "digest": "ab"},
    }  # fmt: skip
    summary = {"best_by": "val_f1_macro", "best": {"step": 120, "val_f1_macro": 0.8}, "parameters": 10}
    write_run(
        run, trial_lines(120, 0.8),
        **{"settings.json": json.dumps(settings), "summary.json": json.dumps(summary)},
    )  # fmt: skip
    (run.parent / "examples").mkdir()
    (run.parent / "examples" / "examples.json").write_text(json.dumps(EXAMPLES))
    if evaluation:
        (run / "evaluation.json").write_text(json.dumps(evaluation))
    return run


def test_a_fine_tuned_run_shows_its_scores_and_examples(tmp_path: Path) -> None:
    run = write_finetuned(tmp_path / "run")
    html = write_report(run).read_text()
    check_charts(html)
    specs = specs_of(html)
    lines = [line for line in trial_lines(120, 0.8) if "val_f1_macro" in line]
    assert specs["scores"]["traces"][0]["y"] == [line["val_f1_macro"] for line in lines]
    assert [trace["x"] for trace in specs["classes"]["traces"]] == [[60, 30], [12, 8]]
    assert "nats per example" in specs["loss"]["layout"]["yaxis"]["title"]["text"]
    shown = "".join(Elements(html).data)
    assert "train: empty text 2" in shown and "not balanced: no 67 %" in shown
    assert "Best val_f1_macro" in shown and "confusion" not in specs
    assert json.loads((run / "report.json").read_text())["task"]["parts"] == EXAMPLES["parts"]


def test_an_evaluation_shows_classes_and_confusion(tmp_path: Path) -> None:
    html = write_report(write_finetuned(tmp_path / "run", EVALUATION)).read_text()
    check_charts(html)
    confusion = specs_of(html)["confusion"]["traces"][0]
    assert confusion["text"] == [["9", "3"], ["2", "6"]] and confusion["z"][0] == [0.75, 0.25]
    shown = "".join(Elements(html).data)
    assert "15 of 20 told right" in shown and "0.8182" in shown and "0.55" in shown
    assert "Evaluation: test part" in shown


@pytest.mark.parametrize(
    ("settings", "unit"),
    [
        ({"pretrain": {}}, "nats per token"),
        ({"finetune": {"task": {"kind": "regression"}}}, "squared error"),
        ({"finetune": {"task": {"kind": "classification", "loss": "hinge"}}}, "hinge loss"),
    ],
)
def test_the_unit_of_a_loss(settings: dict[str, Any], unit: str) -> None:
    assert task_numbers.loss_unit(settings) == unit


@in_browser
def test_a_sweeps_charts_draw_in_a_browser(tmp_path: Path) -> None:
    lines = "".join(json.dumps(line) + "\n" for line in LINEAGE)
    path = write_report(write_sweep(tmp_path / "sweep", **{"lineage.jsonl": lines}))
    dom, console = browse(path, tmp_path / "profile")
    specs = specs_of(path.read_text())
    assert console == [] and f'data-drawn="{len(specs)}"' in dom
    assert set(specs) == {"losses", "metric", "parallel", "importance", "lineage"}


@in_browser
def test_a_confusion_matrix_draws_in_a_browser(tmp_path: Path) -> None:
    path = write_report(write_finetuned(tmp_path / "run", EVALUATION))
    dom, console = browse(path, tmp_path / "profile")
    assert console == [] and 'class="hm"' in dom
    assert page("a", "b", "", [])  # the page's frame stands without charts, too
