"""The benchmarks: what a result says, that the peer is a fair one, and that a smoke run goes through."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

import llm
from benchmarks import bare_loop, learning, sweep_overhead, trainer_peer
from benchmarks.__main__ import RESULTS, main
from benchmarks.curves import Curve, draw, ticks
from benchmarks.ground import TINY, Ground
from benchmarks.loader import memory_row
from benchmarks.rows import Row, table, write_result
from benchmarks.train import WARM_UP, Pair, rate_of, row_of
from benchmarks.validation import gaps_of
from benchmarks.wandb_server import USELESS
from cluster.errors import RunError, UserError
from llm.model.inputs import Inputs
from llm.settings import ModelSettings, PretrainSettings
from llm.train.objective import Objective
from llm.train.plain import PlainEngine
from llm.train.schedule import learning_rate

NAMES = {"what", "unit", "ours", "peer", "peer_name", "ratio", "goal", "met"}
MODEL = ModelSettings.model_validate(TINY["model"])
VOCAB = 300


def settings_of(steps: int) -> PretrainSettings:
    return PretrainSettings.model_validate(dict(TINY["pretrain"]) | {"steps": steps})


def check_result(path: Path) -> list[dict[str, object]]:
    """A result file of the fixed format; its rows."""
    result = json.loads(path.read_bytes())
    assert set(result) == {"machine", "versions", "command", "rows"}
    assert {"cpu", "cores", "memory_gb", "gpu", "load_average"} <= set(result["machine"])
    assert {"python", "torch", "commit"} <= set(result["versions"])
    for row in result["rows"]:
        assert set(row) - {"note"} == NAMES
        assert row["ratio"] == (None if row["peer"] is None else row["ours"] / row["peer"])
        assert (row["met"] is None) == (row["goal"] is None)
        if row["goal"]:
            *least, of, sign, bound = row["goal"].split()
            value = -1.0 if row[of] is None else row[of]
            met = value >= float(bound) if sign == ">=" else value <= float(bound)
            assert row["met"] == (met and (not least or float(least[0]) <= value))
    return list(result["rows"])


@pytest.mark.parametrize(
    ("row", "ratio", "met"),
    [
        (Row("a", "t/s", 95.0, 100.0, "bare", "ratio >= 0.95"), 0.95, True),
        (Row("a", "t/s", 94.0, 100.0, "bare", "ratio >= 0.95"), 0.94, False),
        (Row("a", "MiB", 4.0, goal="ours <= 4"), None, True),
        (Row("a", "MiB", 4.1, goal="ours <= 4"), None, False),
        (Row("a", "MiB", 90.0, 100.0, "rss", "0.9 <= ratio <= 1.1"), 0.9, True),
        (Row("a", "MiB", 89.0, 100.0, "rss", "0.9 <= ratio <= 1.1"), 0.89, False),
        (Row("a", "MiB", 111.0, 100.0, "rss", "0.9 <= ratio <= 1.1"), 1.11, False),
        (Row("a", "t/s", 9.0, 3.0, "bare"), 3.0, None),
        (Row("a", "t/s", 9.0, goal="ratio >= 0.5"), None, False),  # no peer: never met
        (Row("a", "nats", 2.01, 2.0, "b", "0.995 <= ratio <= 1.005"), 1.005, True),
        (Row("a", "nats", 1.98, 2.0, "b", "0.995 <= ratio <= 1.005"), 0.99, False),
        (Row("a", "nats", 2.02, 2.0, "b", "0.995 <= ratio <= 1.005"), 1.01, False),
    ],
)
def test_met_follows_the_goal(row: Row, ratio: float | None, met: bool | None) -> None:
    assert (row.ratio, row.met) == (ratio, met)
    assert ("NO" in table([row])) == (met is False)


@pytest.mark.parametrize("goal", ["fast", "0.5 <= ratio >= 0.9", "ratio <= 1 <= 2"])
def test_a_goal_that_cannot_be_checked_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match=f"goal '{goal}'"):
        Row("a", "t/s", 1.0, goal=goal)


def test_a_result_has_the_fixed_format(tmp_path: Path) -> None:
    machine = dict.fromkeys(("cpu", "cores", "memory_gb", "gpu", "load_average"))
    versions = dict.fromkeys(("python", "torch", "commit"))
    rows = [Row("a", "t/s", 95.0, 100.0, "bare", "ratio >= 0.95", "a note"), Row("b", "MiB", 1.5)]
    write_result(tmp_path / "x.json", machine, versions, "python -m benchmarks", rows)
    assert check_result(tmp_path / "x.json")[0]["note"] == "a note"


def test_kept_results_have_the_fixed_format() -> None:
    for path in sorted(RESULTS.glob("*.json")):
        if path.stem in ("train", "loader"):
            assert "--quick" not in json.loads(path.read_bytes())["command"]
            assert check_result(path)


def test_the_row_is_the_pair_with_the_median_ratio(tmp_path: Path) -> None:
    pairs = [Pair(90, 100), Pair(50, 50), Pair(99, 90)]  # ratios 0.9, 1.0, 1.1
    row = row_of(Ground(tmp_path, True, print), "fp32", 10, pairs)
    assert (row.ours, row.peer, row.ratio, row.met) == (50, 50, 1.0, True)
    assert "0.900 1.000 1.100" in (row.note or "")


def test_the_clock_leaves_out_the_warm_up_and_nothing_else() -> None:
    times = {step: 1000.0 + 60 * step for step in range(WARM_UP + 1)}  # slow at first
    times |= {WARM_UP + i: times[WARM_UP] + 2 * i for i in range(1, 11)}
    assert rate_of(times, 10, 100) == pytest.approx(50)
    times[WARM_UP + 10] += 20  # time lost between two steps counts
    assert rate_of(times, 10, 100) == pytest.approx(25)


def test_growth_is_that_of_the_worst_size() -> None:
    row = memory_row("m", [10 << 20, 16 << 20, 11 << 20], 5)
    assert (row.ours, row.met) == (6.0, False)


def test_bare_loop_and_our_engine_compute_the_same() -> None:
    """The same batches give the same losses, through the updates too: the comparison is like with like."""
    settings = settings_of(4)
    tokens, chance = np.arange(5000, dtype=np.uint16) * 7 % VOCAB, np.random.default_rng(0)
    bare = llm.build(MODEL, VOCAB, settings.seed)
    optimizer = bare_loop.make_optimizer(bare, settings.optimizer)
    engine = PlainEngine(Objective(llm.build(MODEL, VOCAB, settings.seed), "fp32"), settings.optimizer, 1)
    for step in range(settings.steps):
        x, y = bare_loop.random_batch(tokens, settings.batch, settings.length, chance)
        assert torch.equal(x[:, 1:], y[:, :-1])
        rate = learning_rate(step, settings.steps, settings.optimizer.lr, settings.schedule)
        theirs = bare_loop.train_step(bare, optimizer, x, y, False, rate, settings.optimizer.clip)
        scales = torch.full((2,), 1 / x.numel())
        summed = engine.accumulate(Inputs(x, y, torch.ones(x.shape)), scales, last=True)[0]
        engine.norm()
        engine.step(rate)
        assert summed.item() / x.numel() == pytest.approx(theirs, abs=1e-5)


def test_gaps_of_a_validation_last_until_its_numbers() -> None:
    """On the trainer the one gap that it stands in; beside it all until it is found; the last has none."""
    rows = [{"step": step, "time": 100.0 + step} for step in range(7)]
    late = [
        {"step": 2, "time": 104.5, "val_loss": 1.0},
        {"step": 4, "time": 104.2, "passed_over": True},
        {"step": 6, "time": 109.0, "val_loss": 1.0},
    ]
    gaps = gaps_of(rows, late, 1)
    assert gaps.all == dict.fromkeys(range(1, 6), 1.0)
    assert gaps.of_validations == [[1.0, 1.0, 1.0]]
    trained = [row | ({"val_loss": 1.0} if row["step"] in (0, 2, 6) else {}) for row in rows]
    trained[3]["time"] += 0.5
    assert gaps_of(trained, [], 1).of_validations == [[1.5]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bare_loop_trains(tmp_path: Path, precision: str) -> None:
    (np.arange(5000) * 7 % VOCAB).astype("<u2").tofile(tmp_path / "tokens.bin")
    recipe = Ground(tmp_path, True, print).recipe_path
    out = tmp_path / "steps.json"
    words = [
        recipe,
        "--tokens",
        str(tmp_path / "tokens.bin"),
        "--vocab",
        str(VOCAB),
        "--precision",
        precision,
    ]
    threads = torch.get_num_threads()
    try:
        bare_loop.main([*words, "--steps", "40", "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    steps = json.loads(out.read_bytes())
    assert len(steps) == 40
    assert [at for at, _ in steps] == sorted(at for at, _ in steps)
    assert steps[-1][1] < steps[0][1] - 0.5


def test_quick_loader_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in RESULTS.glob("*")}
    assert main(["loader", "--quick", "--out", str(tmp_path)]) == 0
    assert {path: path.stat().st_mtime_ns for path in RESULTS.glob("*")} == before
    rows = check_result(tmp_path / "loader.json")
    assert [row["goal"] for row in rows] == [
        "ratio >= 50",
        "ratio >= 50",
        None,
        None,
        "ours <= 4",
        "ours <= 4",
    ]
    assert all(isinstance(row["ours"], float) for row in rows)
    assert "what" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_quick_tracking_run(tmp_path: Path) -> None:
    """Four real trainings: it fails where one does, or where the losses differ."""
    assert main(["tracking", "--quick", "--out", str(tmp_path)]) == 0
    rows = check_result(tmp_path / "tracking.json")
    assert [str(row["what"]).rpartition(" that ")[2] for row in rows] == list(USELESS)
    assert {row["goal"] for row in rows} == {"ratio >= 0.98"}


def test_wrong_calls_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no benchmark 'lodaer'; there are: train, loader"):
        main(["lodaer"])
    for options in ([], ["--out", str(RESULTS)]):
        with pytest.raises(UserError, match="--out"):
            main(["--quick", *options])


def test_a_failed_process_fails_the_benchmark(tmp_path: Path) -> None:
    from benchmarks.process import run_module

    with pytest.raises(RunError, match=r"bare_loop ended with status 2(.|\n)*--tokens"):
        run_module(tmp_path / "log", "benchmarks.bare_loop", "demo")


def test_help_is_told() -> None:
    words = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(words, cwd=RESULTS.parents[1], capture_output=True, text=True, check=True)
    assert "usage: python -m benchmarks" in done.stdout and "--quick" in done.stdout


def test_quick_learning_run(tmp_path: Path) -> None:
    """From the same start over the same batches both learn the same, and the picture shows it."""
    assert main(["learning", "--quick", "--out", str(tmp_path)]) == 0
    (row,) = check_result(tmp_path / "learning.json")
    assert row["met"] and row["ratio"] == pytest.approx(1, abs=1e-4)
    picture = ET.fromstring((tmp_path / "learning.svg").read_text())
    assert len(picture.findall(".//{*}circle")) == 3 + 1  # steps 0, 3 and 6; the legend


def test_learning_takes_the_text_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some words")
    ground = Ground(tmp_path, True, print, text=tmp_path)
    (source,) = learning.sections_of(ground)["corpus"]["sources"]
    assert (source["path"], source["format"]) == (str(tmp_path), "text")
    (tmp_path / "b.jsonl.gz").write_text("")
    assert learning.sections_of(ground)["corpus"]["sources"][0]["format"] == "jsonl"
    (tmp_path / "manifest.json").write_text("{}")
    assert learning.is_corpus(tmp_path)
    with pytest.raises(UserError, match="--text: .* is not there"):
        main(["learning", "--quick", "--out", str(tmp_path / "out"), "--text", str(tmp_path / "c")])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_quick_run_of_stack_and_trainer(tmp_path: Path) -> None:
    assert main(["stack", "trainer", "--quick", "--out", str(tmp_path)]) == 0
    goals = {
        name: [row["goal"] for row in check_result(tmp_path / f"{name}.json")]
        for name in ("stack", "trainer")
    }
    assert goals == {"stack": ["ratio >= 0.97"] * 2, "trainer": ["ratio >= 1.15"]}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_trainer_is_the_peer_that_its_row_says(tmp_path: Path, precision: str) -> None:
    pytest.importorskip("accelerate")
    settings = settings_of(5).model_copy(update={"precision": precision})
    tokens = (np.arange(5000) * 7 % VOCAB).astype(np.uint16)
    times = trainer_peer.train(tokens, MODEL, VOCAB, settings, compiled=False)
    assert len(times) == settings.steps and times == sorted(times)


def test_a_picture_has_every_value_in_its_frame() -> None:
    curves = [
        Curve(f"seed {i}", {0: 7.5, 50: 4.0 + i, 100: 3.1}, {0: 7.5, 50: 4.02 + i, 100: 3.2})
        for i in range(3)
    ]
    picture = ET.fromstring(draw("a < b", curves))
    assert picture.findtext("{*}title") == "a < b"
    width, height = (float(picture.attrib[name]) for name in ("width", "height"))
    circles = picture.findall(".//{*}circle")
    assert len(circles) == 3 * 3 + 1
    assert all(0 < float(c.attrib["cx"]) < width and 0 < float(c.attrib["cy"]) < height for c in circles)
    starts = {c.attrib["cy"] for c in circles[1::3]}
    assert len(starts) == 1  # all begin at one value


@pytest.mark.parametrize(("low", "high"), [(0, 400), (3.2, 7.7), (0, 7), (-0.65, 0.65), (0, 1e-4)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 3 <= len(found) <= 9 and low <= found[0] and found[-1] <= high


def test_a_sweep_is_compared_with_the_sum_of_its_trainings() -> None:
    """The turn with the median ratio; starts after the first apart from the first."""
    turns = [
        {"alone": [10.0] * 4, "alone_starts": [2.0] * 4, "sweep": seconds, "starts": [6.0, 3.0, 4.0, 5.0]}
        for seconds in (60.0, 44.0, 48.0)
    ]
    whole, first, later = sweep_overhead.rows_of(turns, 10)
    assert (whole.ours, whole.peer, whole.ratio, whole.met) == (48.0, 40.0, 1.2, True)
    assert "1.500 1.100 1.200" in (whole.note or "")
    assert (first.ours, later.ours, later.peer) == (6.0, 4.0, 2.0)
