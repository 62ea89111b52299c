"""The pages: numbers equal the folder's, nothing is loaded, hostile text stays text, charts really draw."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RunError, UserError
from llm.pages import blocks, charts, training
from llm.pages import corpus as corpus_page
from llm.pages.page import ICON, page, script_json
from llm.report import write_report
from tests.data_jobs.conftest import make_texts, prepare, settings_for, write_jsonl
from tests.llm.folders import HOSTILE, SETTINGS, make_corpus, metric_lines, write_run

ROOT = Path(__file__).resolve().parents[2]


def last_of_each_step(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{line["step"]: line for line in lines}[step] for step in sorted({line["step"] for line in lines})]


class Elements(HTMLParser):
    """The tags of a page, and what they ask a browser to load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.handlers: list[str] = []
        self.data: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "data", "action", "poster", "background", "formaction"):
                self.loads.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        (self.scripts if self.tags and self.tags[-1] == "script" and self.cdata_elem else self.data).append(
            data
        )


def specs_of(html: str) -> dict[str, Any]:
    start = html.index('id="charts">') + len('id="charts">')
    return json.loads(html[start : html.index("</script>", start)])  # type: ignore[no-any-return]


def test_report_json_has_the_numbers_of_metrics_jsonl(tmp_path: Path) -> None:
    lines = metric_lines()
    run = write_run(tmp_path / "run", lines)
    write_report(run)
    numbers = json.loads((run / "report.json").read_text())
    expected = last_of_each_step(lines)
    assert numbers["rows"] == expected
    assert len(numbers["smoothed_loss"]) == len(expected)
    key = numbers["key_numbers"]
    validation = [line["val_loss"] for line in expected if "val_loss" in line]
    assert key["steps"] == 120 and key["tokens"] == 120 * 512
    assert key["loss"] == expected[-1]["loss"]
    assert (key["first_val_loss"], key["val_loss"]) == (validation[0], validation[-1])
    assert key["best_val_loss"] == min(validation)
    assert key["data_wait_share"] == pytest.approx(0.02)
    assert key["checkpoint_stall_seconds"] == pytest.approx(0.3)  # 0.1 and 0.2 by attempt
    assert (key["mfu"], key["restarts"], key["goodput"]) == (0.4, 1, expected[-1]["goodput"])
    assert key["memory_bytes"] == (3 << 30) + 120
    tiles = {label: (value, unit) for label, value, unit in training.run_tiles(numbers)}
    assert tiles["Model FLOPs utilisation"] == ("40 %", "of the peak, median")
    assert tiles["Goodput"] == ("80 %", "of the time it ran")
    assert tiles["Memory, fullest worker"] == ("3.0 GiB", "peak")


def test_a_run_that_says_nothing_of_its_time_has_no_tile_for_it(tmp_path: Path) -> None:
    """One of an earlier version; its restarts are counted from its lines."""
    new = {"mfu", "goodput", "restarts", "memory_bytes"}
    lines = [{name: value for name, value in line.items() if name not in new} for line in metric_lines()]
    run = write_run(tmp_path / "run", lines)
    specs = specs_of(write_report(run).read_text())
    numbers = json.loads((run / "report.json").read_text())
    assert numbers["key_numbers"]["restarts"] == 1
    assert not {"mfu", "goodput", "memory"} & set(specs)
    labels = {label for label, _, _ in training.run_tiles(numbers)}
    assert not {"Model FLOPs utilisation", "Goodput", "Memory, fullest worker"} & labels


def test_what_is_drawn_is_what_report_json_holds(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    specs = specs_of(write_report(run).read_text())
    rows = json.loads((run / "report.json").read_text())["rows"]
    drawn = {"rate": "lr", "norm": "grad_norm", "throughput": "tokens_per_second", "mfu": "mfu"}
    for name, metric in (drawn | {"goodput": "goodput"}).items():
        trace = specs[name]["traces"][0]
        having = [row for row in rows if metric in row]
        assert trace["x"] == [row["step"] for row in having]
        assert trace["y"] == [row[metric] for row in having]
        assert specs[name]["views"]["tokens"]["x"][0] == [row["tokens"] for row in having]
    loss = {trace["name"]: trace for trace in specs["loss"]["traces"]}
    assert loss["training"]["y"] == [row["loss"] for row in rows if "loss" in row]
    assert loss["validation"]["x"] == [0, 40, 80, 120]
    assert specs["loss"]["views"]["tokens"]["x"][2] == [0, 40 * 512, 80 * 512, 120 * 512]


def test_the_page_loads_nothing(tmp_path: Path) -> None:
    html = write_report(write_run(tmp_path / "run")).read_text()
    elements = Elements(html)
    assert [load for load in elements.loads if not load.startswith("data:")] == []
    assert elements.tags.count("script") == 3 and "iframe" not in elements.tags
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "default-src &#x27;none&#x27;" in html


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    lines = [{**line, "attempt": HOSTILE + line["attempt"]} for line in metric_lines()]
    sample = {"step": 1, "prompt": HOSTILE, "text": HOSTILE + HOSTILE}
    run = write_run(
        tmp_path / "run<img src=x onerror=1>", lines,
        **{
            "samples.jsonl": json.dumps(sample, ensure_ascii=False) + "\n",
            "settings.json": json.dumps({**SETTINGS, HOSTILE: {HOSTILE: HOSTILE}}),
            "summary.json": json.dumps({HOSTILE: HOSTILE}),
        },
    )  # fmt: skip
    html = write_report(run).read_text()
    elements = Elements(html)
    assert "img" not in elements.tags and elements.handlers == []
    assert elements.tags.count("script") == 3
    assert "".join(elements.data).count(HOSTILE) >= 6
    assert json.loads((run / "report.json").read_text())["samples"] == [sample]


def test_hostile_text_inside_a_script_element() -> None:
    text = script_json({"a": HOSTILE, "b": [math.nan, math.inf, 1.5]})
    assert "<" not in text and ">" not in text and "&" not in text and "\u2028" not in text
    assert json.loads(text) == {"a": HOSTILE, "b": [None, None, 1.5]}


def test_plotly_reads_no_tags_in_names_from_data() -> None:
    trace = charts.bars("dropped", [1], ["<b>reason</b>"], "--red", ["<i>1</i>"])
    assert trace["y"] == ["&lt;b&gt;reason&lt;/b&gt;"] and trace["text"] == ["&lt;i&gt;1&lt;/i&gt;"]


@pytest.mark.parametrize("metrics", [None, "", '{"step": 0, "val'])
def test_no_metrics_yet(tmp_path: Path, metrics: str | None) -> None:
    run = write_run(tmp_path / "run", [], **{"samples.jsonl": ""})
    (run / "metrics.jsonl").unlink()
    if metrics is not None:
        (run / "metrics.jsonl").write_text(metrics)
    html = write_report(run).read_text()
    assert "No step has been logged yet." in html
    assert specs_of(html) == {}
    assert json.loads((run / "report.json").read_text())["rows"] == []


def test_restarts_are_marked_on_every_curve_and_axis(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    specs = specs_of(write_report(run).read_text())
    assert json.loads((run / "report.json").read_text())["restarts"] == [{"attempt": "b", "step": 61}]
    for spec in specs.values():
        assert [shape["x0"] for shape in spec["layout"]["shapes"]] == [61]
        assert [note["text"] for note in spec["layout"]["annotations"]] == ["restart"]
        assert spec["views"]["steps"]["marks"] == [61]
        assert spec["views"]["tokens"]["marks"] == [61 * 512]
        assert spec["views"]["time"]["marks"] == [pytest.approx((90 + 61 / 2) / 60)]  # in minutes
    assert "minutes" in specs["loss"]["views"]["time"]["title"]


def test_no_restart_no_mark(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [{**line, "attempt": "a"} for line in metric_lines()])
    assert all(spec["layout"]["shapes"] == [] for spec in specs_of(write_report(run).read_text()).values())


def test_a_loss_that_is_not_finite_is_counted_and_is_a_gap(tmp_path: Path) -> None:
    lines = metric_lines()
    lines[-1]["loss"] = math.nan
    run = write_run(tmp_path / "run", lines)
    html = write_report(run).read_text()
    numbers = json.loads((run / "report.json").read_text(), parse_constant=pytest.fail)
    assert numbers["rows"][-1]["loss"] is None
    assert "1 logged step had a loss that is not finite" in html


def check_charts(html: str) -> None:
    """Every chart: axes with titles, valid for plotly, a table behind it."""
    specs = specs_of(html)
    assert specs
    for name, spec in specs.items():
        for axis in ("xaxis", "yaxis"):
            assert spec["layout"][axis]["title"]["text"], name
        drawn = json.loads(
            re.sub(r'"--[a-z]+"', '"#0a5fbf"', json.dumps(spec))
        )  # page.js puts the colours in
        figure = go.Figure(data=drawn["traces"], layout=drawn["layout"], skip_invalid=False)
        assert len(figure.data) == len(spec["traces"])
        for view in spec["views"].values():
            assert [len(x) for x in view["x"]] == [len(trace["y"]) for trace in spec["traces"]]
        place = html.index(f'id="{name}"')
        assert "<table>" in html[place : html.index("</details>", place)]


def test_every_chart_has_axis_titles_and_a_table(tmp_path: Path) -> None:
    check_charts(write_report(write_run(tmp_path / "run")).read_text())


def test_equal_folders_give_equal_pages(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_a_checkpoint_stands_for_its_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    checkpoint = run / "checkpoints" / "step-000000060-abcd"
    checkpoint.mkdir(parents=True)
    assert write_report(checkpoint) == run / "report.html"


def test_what_is_neither_a_run_nor_a_corpus(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "mine")
    with pytest.raises(
        UserError, match=r"neither a run nor a sweep nor a corpus .* did you mean .*runs/mine"
    ):
        write_report(tmp_path / "runs")
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def test_a_wrong_folder_ends_with_status_2_and_one_message(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llm.report", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path}: neither a run") and done.stderr.count("\n") == 1


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", **{"settings.json": "{"})
    with pytest.raises(RunError, match=r"settings\.json: damaged"):
        write_report(run)


def test_a_corpus_page_has_the_numbers_of_its_manifest(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path)
    before = (corpus / "report.json").read_bytes()
    path = write_report(corpus)
    assert path == corpus / "report.html" and (corpus / "report.json").read_bytes() == before
    html = path.read_text()
    check_charts(html)
    manifest, report = (json.loads((corpus / name).read_bytes()) for name in ("manifest.json", "report.json"))
    documents, specs = manifest["counts"]["documents"], specs_of(html)
    remain, dropped = specs["funnel"]["traces"]
    assert remain["x"][0] == documents["in"] and remain["x"][-2:] == [documents["out"]] * 2
    assert sum(dropped["x"]) == documents["in"] - documents["out"] == sum(documents["dropped"].values())
    assert remain["y"] == [
        "documents in",
        "read: invalid json",
        "clean: empty",
        "deduplicate: duplicate",
        "documents out",
    ]
    assert specs["dropped"]["traces"][0]["x"] == sorted(documents["dropped"].values(), reverse=True)
    assert sum(specs["lengths"]["traces"][0]["y"]) == documents["out"]
    assert specs["stages"]["traces"][0]["x"] == list(report["seconds"].values())
    splits = manifest["sources"][0]["splits"]
    assert specs["sources"]["traces"][0]["x"] == [splits["train"]["tokens"], splits["val"]["tokens"]]
    assert "Documents in and added are not" not in html and Elements(html).loads == [ICON]


def test_cut_documents_are_added_in_the_funnel() -> None:
    none = {"in": 0, "added": 0, "out": 0, "dropped": {}}
    stages = [
        {"stage": "read", "source": "a", "documents": {**none, "dropped": {"x_y": 2}}},
        {"stage": "clean", "source": "a", "documents": {**none, "added": 3}},
        {"stage": "read", "source": "b", "documents": {**none, "dropped": {"x_y": 5}}},
    ]
    steps = corpus_page.funnel_steps(stages)
    assert steps == [("read: x y", 7), ("clean: long documents cut", -3)]
    chart = corpus_page.funnel_chart({"in": 10, "added": 3, "out": 6, "dropped": {"x_y": 7}}, steps)
    assert [row[1] for row in chart.rows] == [10, 3, 6, 6] and [row[2] for row in chart.rows] == [0, 7, 0, 0]


@given(st.integers(1, 400), st.integers(4, 60), st.sets(st.integers(0, 399)))
def test_thinned_lines_are_lines_and_keep_what_matters(count: int, most: int, always: set[int]) -> None:
    chance = random.Random(count)
    rows = [
        {"step": i, "loss": chance.random()} | ({"val_loss": 1.0} if i % 50 == 0 else {})
        for i in range(count)
    ]
    kept = training.thin_rows(rows, always, most)
    steps = [row["step"] for row in kept]
    assert all(row is rows[row["step"]] for row in kept) and steps == sorted(set(steps))
    assert {0, count - 1} <= set(steps) and {s for s in always if s < count} <= set(steps)
    assert {row["step"] for row in rows if "val_loss" in row} <= set(steps)
    assert max(row["loss"] for row in kept) == max(row["loss"] for row in rows)
    assert min(row["loss"] for row in kept) == min(row["loss"] for row in rows)
    extra = 2 + len(always) + sum("val_loss" in row for row in rows)
    assert len(kept) <= max(most, most + extra)


def test_smoothing_stays_inside_the_data_and_does_not_lag() -> None:
    rows = [{"step": i, "loss": 10 - i / 100} for i in range(600)]
    for step, value in training.smooth(rows):
        assert value == pytest.approx(10 - step / 100)  # a running mean would be above a falling line
    noisy = [{"step": i, "loss": 3 + (-1) ** i} for i in range(600)]
    middle = [value for step, value in training.smooth(noisy) if 20 < step < 580]
    assert max(middle) - min(middle) < 0.25


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (1234567, "1,234,567"),
        (0.00012345, "0.0001234"),
        (2.0, "2"),
        (12345.6, "12,346"),
        ("a", "a"),
    ],
)
def test_numbers_as_people_read_them(value: Any, text: str) -> None:
    assert blocks.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(9999, "9,999"), (12345, "12.3 k"), (3456789, "3.46 M"), (7e10, "70 B")]
)
def test_large_numbers(value: float, text: str) -> None:
    assert blocks.short(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(48.04, "48 s"), (200, "3 min 20 s"), (59.99, "1 min 0 s"), (18720, "5 h 12 min")]
)
def test_durations(value: float, text: str) -> None:
    assert blocks.duration(value) == text


CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
in_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium")


def browse(path: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's DOM as a browser without a network ends with it, and what stood on its console."""
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", "--enable-logging=stderr",
            "--virtual-time-budget=8000", "--window-size=1100,2000", *flags, "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=100, env={**os.environ, "HOME": str(profile)}, check=True,
    )  # fmt: skip
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@in_browser
def test_charts_draw_in_a_browser_without_a_network(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "run"))
    specs = specs_of(path.read_text())
    dom, console = browse(path, tmp_path / "profile")
    assert console == []
    assert f'data-drawn="{len(specs)}"' in dom
    assert dom.count('class="gl-container"') == len(specs)
    assert dom.count('class="trace scatter') == sum(len(spec["traces"]) for spec in specs.values())
    assert "step (optimizer steps)" in dom[dom.index('class="gl-container"') :]


@in_browser
def test_the_switch_changes_the_axis_and_dark_changes_the_colours(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "run"))
    click = "<script>document.querySelector('input[value=tokens]').click()</script></body>"
    path.write_text(path.read_text().replace("</body>", click))
    dom, console = browse(path, tmp_path / "profile", "--blink-settings=preferredColorScheme=0")
    assert console == []
    titles = [
        part.split("<", 1)[0] for part in dom.split('class="xtitle"')[1:] for part in [part.split(">", 1)[1]]
    ]
    assert titles and set(titles) == {"tokens trained on"}
    assert "rgb(14, 17, 22)" in dom  # --page of the dark scheme


@in_browser
def test_hostile_text_runs_nothing_in_a_browser(tmp_path: Path) -> None:
    text = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    sample = {"step": 1, "prompt": text, "text": text}
    run = write_run(tmp_path / "run", **{"samples.jsonl": json.dumps(sample) + "\n"})
    chart = charts.Chart("c", text, text, [charts.bars(text, [1], [text], "--red", [text])],
                         charts.bar_axes("documents", "reason", 1), [text, "n"], [(text, 1)])  # fmt: skip
    (run / "bars.html").write_text(page(text, text, chart.html(), [chart]))
    for path in (write_report(run), run / "bars.html"):
        dom, console = browse(path, tmp_path / "profile")
        assert console == [] and "<title>taken" not in dom and "<img src" not in dom


def test_a_validation_on_all_samples_stands_apart_from_those_on_a_part(tmp_path: Path) -> None:
    settings = {**SETTINGS, "pretrain": {"steps": 120, "validation": {"max_samples": 64}}}
    run = write_run(tmp_path / "run", **{"settings.json": json.dumps(settings)})
    loss = next(c for c in training.training_charts(training.run_numbers(run)) if c.name == "loss")
    found = {trace["name"]: trace["x"] for trace in loss.traces if "validation" in trace["name"]}
    assert list(found) == ["validation, first 64 samples", "validation, all samples"]
    assert found["validation, all samples"] == [120] and 120 not in found["validation, first 64 samples"]
    plain = next(c for c in training.training_charts(training.run_numbers(write_run(tmp_path / "b"))))
    assert [trace["name"] for trace in plain.traces] == ["training", "training, smoothed", "validation"]


def test_a_text_that_is_cut_shows_it() -> None:
    cards = blocks.sample_cards([{"prompt": "a", "text": "a b"}, {"prompt": "a", "text": "a b\n"}], ["", ""])
    assert cards.count(blocks.CUT) == 1


def test_a_corpus_page_shows_what_was_left_out_and_what_stays(tmp_path: Path) -> None:
    texts = make_texts(60)
    near = [f"{text} {HOSTILE}" for text in texts[:1] for _ in range(3)]
    near = [f"{text} {['and', 'more', 'words', 'in', 'the', 'end'][i]}" for i, text in enumerate(near)]
    source = write_jsonl(tmp_path / "in.jsonl", [*texts, *near, "Too short."])
    settings = settings_for(
        source, dedup="minhash", minhash={"threshold": 0.5, "rows": 4}, clean={"private_data": ["email"]},
        filters={"length": {"min_words": 4}},
    )  # fmt: skip
    prepare(settings, tmp_path / "corpus")
    numbers = corpus_page.corpus_numbers(tmp_path / "corpus")
    body, charts = corpus_page.corpus_body(numbers)
    names = {chart.name for chart in charts}
    assert {"near-sources", "near-sizes", "near-bands", "texts-words_log2", "stages"} <= names
    assert "length few words" in body and "Too short." in body
    assert "Near duplicates" in body and HOSTILE not in body
    spent = numbers["costs"]["clean"]
    assert spent["tasks"] == 1 and spent["cpu_seconds"] > 0 and f"{spent['cpu_seconds']:.4g}" in body
