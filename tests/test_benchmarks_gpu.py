"""The GPU benchmark: what it needs, what it does about failures, that its sides compute the same."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_cases
from benchmarks.gpu import QUICK, SIZES, Run, mfu
from benchmarks.gpu_cases import Levers, Rows, Size, Timed
from benchmarks.rows import Row
from cluster.errors import UserError
from llm.model import attention, head

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
PLAIN = Levers(compile="none", precision="fp32")
NOT_NEEDED = ("ray", "deepspeed", "wandb", "plotly", "sentencepiece", "obstore", "transformers", "pyarrow")


def test_quick_run_needs_torch_and_little_more(tmp_path: Path) -> None:
    """A smoke run where Ray, DeepSpeed, W&B and the rest are not there; what needs one says so in its row."""
    code = (
        "import sys\n"
        f"for name in {NOT_NEEDED}: sys.modules[name] = None\n"
        "from benchmarks.gpu import main\n"
        "sys.exit(main(['--quick', '--out', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "gpu.json").read_bytes())["rows"]
    missing = {row["what"]: row["note"] for row in rows if row["note"].startswith("not installed")}
    assert len(missing) == 2, missing
    assert all("GPT2LMHeadModel" in what or "checkpoint" in what for what in missing)
    failed = [row for row in rows if row["ours"] == 0 and row["what"] not in missing]
    assert not failed, failed
    assert any(row["what"].startswith("lever") and row["peer"] for row in rows)


def test_losses_of_bf16_are_those_of_fp32(tmp_path: Path) -> None:
    run = Run(tmp_path, "test", CPU, Levers(compile="none"), 0.01, 1.0)
    row = gpu.learning_row(run, replace(QUICK, length=16))
    assert row.met and 0 < row.ours < 0.01  # 0: both were one precision


def test_a_save_is_measured(tmp_path: Path) -> None:
    run = Run(tmp_path, "test", CPU, Levers(compile="none"), 0.01, 1.0)
    stall = gpu.checkpoint_rows(run, QUICK)[0]
    assert stall.ours > 0 and stall.peer


@pytest.mark.parametrize("side", ["bare", "transformers"])
def test_sides_do_the_same_work(side: gpu_cases.Side) -> None:
    """As many tokens, the same kind of loss; ours and the bare loop to rounding, updates included."""
    size = Size("tiny", 2, 32, 2, 16, 2, 2, vocab=128)
    ours = gpu_cases.make_step("ours", size, PLAIN, CPU)
    peer = gpu_cases.make_step(side, size, PLAIN, CPU)
    losses = [(ours(), peer()) for _ in range(6)]
    within = 1e-5 if side == "bare" else 0.2  # theirs has other start weights, and a target less a row
    assert all(a == pytest.approx(b, abs=within) for a, b in losses), losses


@pytest.mark.parametrize(
    "levers",
    [replace(PLAIN, loss="whole"), replace(PLAIN, rows=5), replace(PLAIN, deterministic=True)],
    ids=str,
)
def test_levers_change_no_loss(levers: Levers) -> None:
    found = []
    for each in (PLAIN, levers):
        with gpu_cases.surroundings("ours", each):
            step = gpu_cases.make_step("ours", QUICK, each, CPU)
            found.append([step() for _ in range(4)])
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_levers_are_put_back() -> None:
    def state() -> tuple[object, ...]:
        return attention.ON_HOPPER, head.AT_ONCE, head.MOST_ROWS, torch.are_deterministic_algorithms_enabled()

    before = state()
    with (
        pytest.raises(RuntimeError),
        gpu_cases.surroundings("ours", Levers(attention="flash", rows=7, deterministic=True)),
    ):
        assert (attention.ON_HOPPER, head.MOST_ROWS) == (None, 7)
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError
    assert state() == before


def test_too_little_memory_halves_the_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def short(side: object, size: Size, *_: object) -> Size:
        tried.append((size.micro_batch, size.accumulation))
        if size.micro_batch > 2:
            raise torch.OutOfMemoryError
        return size

    monkeypatch.setattr(gpu_cases, "_timed", short)
    size = Size("s", 1, 8, 1, 8, 8, 3)
    found = gpu_cases.timed("ours", size, PLAIN, CPU, 0.1)
    assert tried == [(8, 3), (4, 6), (2, 12)]
    assert found.tokens == size.tokens  # type: ignore[attr-defined]


def test_what_fails_is_a_row_and_the_next_case_is_run(tmp_path: Path) -> None:
    run = Run(tmp_path, "test", CPU, PLAIN, 0.01, 1.0)

    def broken() -> list[Row]:
        raise torch.OutOfMemoryError("2 GB wanted")

    run.case("a", "tokens/s", broken)
    run.case("b", "tokens/s", lambda: [Row("b", "tokens/s", 1.0)])
    rows = json.loads((tmp_path / "gpu.json").read_bytes())["rows"]
    assert [(row["what"], row["ours"]) for row in rows] == [("a", 0.0), ("b", 1.0)]
    assert rows[0]["note"] == "OutOfMemoryError: 2 GB wanted"
    run.until = 0
    run.case("c", "tokens/s", broken)
    assert run.left_out == ["c"] and len(run.rows) == 2


def test_share_of_the_peak_is_the_papers() -> None:
    """6 N + 12 L d T a token (PaLM, appendix B), N with the output layer and without what is looked up."""
    for size in SIZES.values():
        matrices = 12 * size.layers * size.width**2 + size.vocab * size.width
        paper = 6 * matrices + 12 * size.layers * size.width * size.length
        flops, share = mfu(size, 1e5, 1e15, True)
        assert flops == pytest.approx(paper) and share == pytest.approx(paper * 1e-10)
        causal, _ = mfu(size, 1e5, 1e15, False)
        half = 6 * size.layers * size.width * (size.length - 1)
        assert causal == pytest.approx(paper - half)


def test_a_known_gpu_has_rows_of_its_share(tmp_path: Path) -> None:
    run = Run(tmp_path, "test", CPU, PLAIN, 0.01, 1.0)
    ours = Timed(SIZES["124m"], 530_000.0, 5, 1.0, 40.0)
    assert len(gpu.mfu_rows(run, ours)) == 1  # a CPU has no published peak
    run.peak = 989.5e12, "a data sheet"
    _, paper, causal = gpu.mfu_rows(run, ours)
    assert paper.goal == "ours >= 0.45" and paper.met and paper.ours == pytest.approx(0.4578, abs=1e-3)
    assert causal.goal is None and 0.9 < causal.ours / paper.ours < 0.95


def test_rows_come_round_and_can_be_learned() -> None:
    size = Size("s", 1, 8, 1, 16, 2, 1, vocab=100)
    rows = Rows(size, phrases=3)
    first = rows.take(4)
    assert torch.equal(rows.take(1)[0][0], first[0][0])
    ids, targets = first[0]
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert len({tuple(row) for micro, _ in first for row in micro.view(-1, 8).tolist()}) <= 3


def test_without_a_gpu_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU here; --quick"):
        gpu.main(["--out", str(tmp_path)])
    with pytest.raises(UserError, match="--out"):
        gpu.main(["--quick"])
