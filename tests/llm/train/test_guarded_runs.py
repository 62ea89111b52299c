"""The guard and the self-check over whole runs, with every engine on two real workers."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import RunError, UserError
from llm.train.checkpoints.load import CheckpointReader
from llm.train.checkpoints.save import committed_folders, step_of
from llm.train.job import Worker
from llm.train.run_folder import RunFolder
from tests.llm.train.processes import run_workers
from tests.llm.train.runs import losses_of, rows_of, train
from tests.llm.train.test_engines import KINDS, batch_of, make_engine, part_of, train_steps

pytestmark = pytest.mark.timeout(300)
DROPOUT = {"dropout": 0.2}  # equal to the bit only where it is drawn alike
BAD = "train.loss:step=7:rank=1:nan"  # on one worker alone
SPIKE = "train.loss:sample=45:1000"  # batches of 4: in step 12
SPIKES = {"spike_sigma": 20, "window": 8}  # tiny batches: their losses jump about
REWIND = {**SPIKES, "on_spike": "rewind", "rewind_steps": 3}
RANGE = (32, 48)  # batches of steps 9 to 12: back to 5, and the checkpoint of step 10 goes
WRONG = "blocks.0.feed_forward"  # the parameter whose gradient is spoiled
REWOUND = ("plain", "zero1", "zero3")


def newest(run: Path) -> CheckpointReader:
    return CheckpointReader(committed_folders(run / "checkpoints")[0])


def state_of(engine: Any) -> dict[tuple[str, str, int], torch.Tensor]:
    return {(f.name, f.state, f.start): f.values.clone() for f in engine.held()}


def counts_of(engine: Any) -> set[float]:
    """Adam's own counts of updates."""
    optimizer = engine.optimizer if hasattr(engine, "optimizer") else engine._torch_optimizer()
    return {float(state["step"]) for state in optimizer.state.values() if "step" in state}


def spoil_one_step(rank: int, world: int) -> dict[str, Any]:
    """Two steps, one whose gradient is not finite on the last worker (two micro-batches), three more."""
    found = {}
    for kind in KINDS:
        engine = make_engine(kind, world)
        train_steps(engine, rank, world, 0, 2)
        before = state_of(engine)
        bad = torch.full((2,), torch.nan if rank == world - 1 else 1.0) * 1e-2
        for last in (False, True):
            engine.accumulate(part_of(part_of(batch_of(2, "gpt"), rank, world), int(last), 2), bad, last)
        norm = engine.norm()
        engine.skip()
        after = state_of(engine)
        same = before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
        rest = train_steps(engine, rank, world, 3, 6)
        theirs = float(engine.engine.get_global_grad_norm()) if kind[4:5] in ("1", "2", "3") else rest[-1][-1]
        clean = make_engine(kind, world)
        train_steps(clean, rank, world, 0, 2)
        found[kind] = (norm, same, counts_of(engine), rest, train_steps(clean, rank, world, 3, 6), theirs)
    return found


def skips_in_runs(rank: int, world: int, corpus: str, folder: str) -> None:
    """A clean run; for each engine one with a bad step, and the same in two parts; one that only fails."""
    home = Path(folder)
    train(rank, world, corpus, home / "clean", **DROPOUT)
    for kind in KINDS:
        train(rank, world, corpus, home / kind, kind, BAD, **DROPOUT)
        train(rank, world, corpus, home / f"{kind}-parts", kind, BAD, steps=10, selfcheck=False, **DROPOUT)
        train(rank, world, corpus, home / f"{kind}-parts", kind, **DROPOUT)
    flat = {"kind": "constant", "warmup_steps": 0}
    train(rank, world, corpus, home / "bf16", "zero2", steps=2, precision="bf16", schedule=flat)
    with contextlib.suppress(RunError):
        train(rank, world, corpus, home / "row", "zero1", "train.gradient:rank=1:inf")
        raise AssertionError("it went on")


def spikes_in_runs(rank: int, world: int, corpus: str, folder: str) -> None:
    """A poisoned batch in step 12: let through, skipped, gone around, and left out from the start."""
    home = Path(folder)
    train(rank, world, corpus, home / "off", fault=SPIKE)
    train(rank, world, corpus, home / "whole", fault=SPIKE, guard=SPIKES)
    train(rank, world, corpus, home / "parts", fault=SPIKE, guard=SPIKES, steps=11)
    train(rank, world, corpus, home / "parts", fault=SPIKE, guard=SPIKES)
    for kind in REWOUND:
        for steps in (15, 16):  # stopped once after the rewind
            options = {"guard": REWIND, "log_every": 5, "steps": steps}
            train(rank, world, corpus, home / f"rewind-{kind}", kind, SPIKE, **options)
        train(rank, world, corpus, home / f"without-{kind}", kind, guard=REWIND, skip_samples=[RANGE])


def plant(rank: int, world: int, corpus: str, folder: str) -> dict[str, str]:
    """The last worker's gradient of one parameter is a hundredth too large: what each engine's start says."""
    from llm.train import worker

    made, said = worker.make_engine, {}

    def spoiled(*args: Any) -> Any:
        engine = made(*args)
        if rank == world - 1:
            name = next(n for n, _ in engine.objective.model.named_parameters() if WRONG in n)
            engine.objective.model.get_parameter(name).register_hook(lambda gradient: 1.01 * gradient)
        return engine

    worker.make_engine = spoiled
    for kind in KINDS:
        with pytest.raises(RunError) as caught:
            train(rank, world, corpus, Path(folder) / f"wrong-{kind}", kind)
        said[kind] = str(caught.value)
    return said


def everything(rank: int, world: int, corpus: str, folder: str) -> tuple[dict[str, Any], dict[str, str]]:
    """In one pair of processes: to start some costs more than most of the runs."""
    skips_in_runs(rank, world, corpus, folder)
    spikes_in_runs(rank, world, corpus, folder)
    return spoil_one_step(rank, world), plant(rank, world, corpus, folder)


@dataclass(frozen=True)
class Done:
    folder: Path
    spoiled: list[dict[str, Any]]
    said: list[dict[str, str]]


@pytest.fixture(scope="module")
def done(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("runs")
    found = run_workers(everything, 2, corpus, str(folder))
    return Done(folder, [spoiled for spoiled, _ in found], [said for _, said in found])


@pytest.fixture(scope="module")
def runs(done: Done) -> Path:
    return done.folder


def test_a_skipped_step_leaves_no_trace(done: Done) -> None:
    """Weights, moments and counts stay; what follows equals to the bit a run that never met the batch."""
    for found in done.spoiled:
        for kind, (norm, same, counts, rest, clean, theirs) in found.items():
            assert not torch.tensor(norm).isfinite(), kind
            assert same, kind
            assert counts == {5.0}, kind
            assert rest == clean, kind
            assert rest[-1][-1] == theirs > 0, f"{kind} clips by another norm"


def check_refusals(said: list[dict[str, str]], folder: Path) -> None:
    """All workers name engine, parameter, worker, both values; no step was made, nor will Ray try again."""
    assert all(one == said[0] for one in said)
    for kind in KINDS:
        engine = "plain" if kind == "plain" else f"deepspeed at stage {kind[4]}"
        found = re.search(
            rf"self-check: {engine} computes a wrong gradient: element \d+ of {WRONG}\S* is (\S+) on worker "
            r"[01], (\S+) by plain autograd",
            said[0][kind],
        )
        assert found is not None, said[0][kind]
        assert 0.002 < abs(float(found[1]) / float(found[2]) - 1) < 0.02
        assert not losses_of(folder / f"wrong-{kind}")
        failure = json.loads(RunFolder(folder / f"wrong-{kind}").failure.read_bytes())
        assert failure["message"] == said[0][kind]


def test_a_wrong_gradient_is_refused(done: Done) -> None:
    check_refusals(done.said, done.folder)


@pytest.mark.slow
def test_a_wrong_gradient_of_one_worker_is_refused(corpus: str, tmp_path: Path) -> None:
    check_refusals(run_workers(plant, 1, corpus, str(tmp_path)), tmp_path)


def test_in_bf16_the_self_check_passes(runs: Path) -> None:
    assert len(losses_of(runs / "bf16")) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_is_skipped(runs: Path, kind: str) -> None:
    """On both workers, counted and told; position and schedule go on."""
    rows = {row["step"]: row for row in rows_of(runs / kind)}
    clean = {row["step"]: row for row in rows_of(runs / "clean")}
    assert [row["step"] for row in rows.values() if "skipped" in row] == [7]
    assert (rows[7]["skipped"], rows[7]["skipped_samples"]) == ("loss", [[24, 28]])
    assert rows[7]["loss"] is None and rows[7]["grad_norm"] is None
    steps = range(1, 17)
    for name in ("samples", "tokens", "lr", "sample_digest"):
        assert [rows[s][name] for s in steps] == [clean[s][name] for s in steps]
    assert [rows[s]["loss"] for s in range(1, 7)] == pytest.approx([clean[s]["loss"] for s in range(1, 7)])
    assert abs(rows[9]["loss"] - clean[9]["loss"]) > 1e-3  # one update less
    assert rows[16]["loss"] == pytest.approx(clean[16]["loss"], rel=0.01)
    state = newest(runs / kind).state
    assert (state.step, state.guard.skipped, state.updates) == (16, 1, 15)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_a_skip(runs: Path, kind: str) -> None:
    """Stopped after the bad step and continued: to the bit the run that never stopped, moments included.

    Also with dropout, and though one had no self-check at its first start: that leaves no trace.
    """
    parts = runs / f"{kind}-parts"
    assert losses_of(parts) == losses_of(runs / kind)
    one, other = newest(parts), newest(runs / kind)
    assert one.state.guard == other.state.guard
    for info in one.tensors:
        for state in ("weight", "exp_avg_sq"):
            numel = torch.Size(info.shape).numel()
            assert (one.read(info.name, state, 0, numel) == other.read(info.name, state, 0, numel)).all()


def test_ten_in_a_row_end_the_run(runs: Path) -> None:
    failure = json.loads(RunFolder(runs / "row").failure.read_bytes())["message"]
    assert "step 10:" in failure and "10 steps in a row" in failure and "samples 0 to 39" in failure
    assert [row["skipped"] for row in rows_of(runs / "row") if "skipped" in row] == ["gradient"] * 10
    assert newest(runs / "row").state.step == 5
    assert all(value.isfinite().all() for value in newest(runs / "row").weights().values())


def test_a_spike_is_skipped_by_choice_and_the_window_is_resumed(runs: Path) -> None:
    assert not [row for row in rows_of(runs / "off") if "skipped" in row]
    for run in ("whole", "parts"):
        skipped = [row for row in rows_of(runs / run) if "skipped" in row]
        assert [(r["step"], r["skipped"], r["skipped_samples"]) for r in skipped] == [
            (12, "spike", [[44, 48]])
        ]
    assert losses_of(runs / "parts") == losses_of(runs / "whole")


@pytest.mark.parametrize("kind", REWOUND)
def test_a_rewound_run_is_one_without_these_samples(runs: Path, kind: str) -> None:
    """To the bit, to its last step; and its lines are those of one run, each step once."""
    rewound, without = runs / f"rewind-{kind}", runs / f"without-{kind}"
    rows = rows_of(rewound)
    assert [row["step"] for row in rows] == [0, 5, 6, 10, 15, 16]
    assert (rows[2]["rewound_from"], rows[2]["left_out"]) == (12, [list(RANGE)])
    found, wanted = losses_of(rewound), losses_of(without)
    assert found == {step: wanted[step] for step in found}
    one, other = newest(rewound), newest(without)
    assert replace(other.state.guard, left_out=(RANGE,), rewinds=1) == one.state.guard
    saved = committed_folders(rewound / "checkpoints")
    assert [step_of(s) for s in saved] == [16, 15, 10, 5], "checkpoints of before the rewind are among them"
    attempts = [folder.name.rpartition("-")[2] for folder in saved]
    assert attempts[1] == attempts[2] and len(set(attempts)) == 3, "names from before the rewind come again"
    assert one.index["skips"] == other.index["skips"] == [list(RANGE)]
    assert one.state.next_number == other.state.next_number == 16 * 4 + 16
    for (name, value), wanted_value in zip(one.weights().items(), other.weights().values(), strict=True):
        assert torch.equal(value, wanted_value), name


def alone(corpus: str, run: Path, fault: str = "", **changes: Any) -> None:
    train(0, 1, corpus, run, "plain", fault, selfcheck=False, **changes)


def test_a_skipped_step_costs_little(corpus: str, tmp_path: Path) -> None:
    """The end of a run of 80 steps is within 0.5 % of a clean one's."""
    longer: dict[str, Any] = {"steps": 80, "schedule": {"warmup_steps": 4}, "checkpoint": {"every": 100}}
    alone(corpus, tmp_path / "clean", **longer)
    alone(corpus, tmp_path / "bad", "train.loss:step=40:nan", **longer)
    clean, bad = rows_of(tmp_path / "clean")[-1], rows_of(tmp_path / "bad")[-1]
    assert bad["val_loss"] != clean["val_loss"] == pytest.approx(bad["val_loss"], rel=0.005)


def test_so_many_rewinds_end_the_run(corpus: str, tmp_path: Path) -> None:
    faults = ";".join(f"train.loss:sample={sample}:1000" for sample in (45, 50))
    with pytest.raises(RunError, match=r"step 9: a spike .* taken back 1 times already"):
        alone(corpus, tmp_path, faults, guard={**REWIND, "max_rewinds": 1})
    assert rows_of(tmp_path)[-1]["step"] == 8
    alone(corpus, tmp_path, faults, guard={**REWIND, "max_rewinds": 2})  # the same run goes on
    guard = newest(tmp_path).state.guard
    assert (guard.rewinds, guard.left_out) == (2, ((20, 52),))  # the second spans the first


def test_a_notice_in_the_step_that_is_taken_back_is_not_lost(corpus: str, tmp_path: Path) -> None:
    """The machine goes: a checkpoint at the first step after the rewind."""
    asked = itertools.count(1)
    around = Worker(noticed=lambda: next(asked) == 12)
    alone(corpus, tmp_path, SPIKE, guard=REWIND, around=around)
    assert [step_of(s) for s in committed_folders(tmp_path / "checkpoints")] == [16, 15, 10, 6, 5]


def test_the_deadline_runs_from_the_start(corpus: str, tmp_path: Path) -> None:
    """A worker that hangs in the self-check or in the first step of a resumed run is given up, too."""
    alone(corpus, tmp_path, steps=5)
    lines: list[int] = []

    def beat() -> None:
        lines.append(len(rows_of(tmp_path)))

    train(0, 1, corpus, tmp_path, around=Worker(beat=beat))
    assert lines.count(6) >= 2, "before the self-check and after it, with the lines of steps 0 to 5 there"


def test_before_the_first_checkpoint_a_spike_is_skipped(corpus: str, tmp_path: Path) -> None:
    alone(corpus, tmp_path, SPIKE, guard=REWIND, checkpoint={"every": 20})
    assert [row["step"] for row in rows_of(tmp_path) if row.get("skipped") == "spike"] == [12]


def test_ranges_ahead_of_the_checkpoint_may_be_left_out(corpus: str, tmp_path: Path) -> None:
    """As in a run that left them out from its start; what lies behind the checkpoint stays as it was."""
    alone(corpus, tmp_path / "run", steps=10)
    with pytest.raises(UserError, match=r"sample 39 on.* at sample 40 .* one of step 5 \(sample 20"):
        alone(corpus, tmp_path / "run", steps=14, skip_samples=[(39, 44)])
    with pytest.raises(UserError, match=r"sample 3 on.*No checkpoint is left.* begins at 40 or later"):
        alone(corpus, tmp_path / "run", steps=14, skip_samples=[(3, 4)])
    alone(corpus, tmp_path / "run", steps=14, skip_samples=[(42, 44), (40, 43), (90, 99)])
    alone(corpus, tmp_path / "start", steps=14, skip_samples=[(40, 44), (90, 99)])
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "start")
    assert [row["samples"] for row in rows_of(tmp_path / "run")[10:12]] == [40, 48]
    with pytest.raises(UserError, match=r"from sample 40 on"):  # nor may it be taken back in
        alone(corpus, tmp_path / "run", steps=15)


def test_what_is_not_finite_is_not_saved(corpus: str, tmp_path: Path) -> None:
    """A step that is finite itself can still blow up the weights: that checkpoint is not committed."""
    huge = {"optimizer": {"lr": 3e38}, "schedule": {"kind": "constant", "warmup_steps": 0}}
    with pytest.raises(RunError, match=r"3 checkpoints in a row failed: .*weight of \S+ is not finite"):
        alone(corpus, tmp_path, checkpoint={"every": 1, "keep": 99}, **huge)
    assert committed_folders(tmp_path / "checkpoints") == []
