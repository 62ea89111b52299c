"""Steps that are skipped, with every engine on two real workers; and runs taken back before a spike."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import RunError, UserError
from llm.train.checkpoints.load import CheckpointReader
from llm.train.checkpoints.save import committed_folders
from llm.train.run_folder import RunFolder
from tests.llm.folders import make_corpus
from tests.llm.train.processes import run_workers
from tests.llm.train.runs import losses_of, rows_of, train
from tests.llm.train.test_engines import KINDS, batch_of, make_engine, part_of, train_steps

BAD = "train.loss:step=7:rank=1:nan"  # on one worker alone
SPIKES = {"spike_sigma": 4, "window": 8}
SPIKE = "train.loss:sample=61:1000"  # batches of 4: in step 16
REWIND = {**SPIKES, "on_spike": "rewind", "rewind_steps": 1}
RANGE = (56, 64)  # batches of steps 15 and 16
KIND = {"plain": "plain", "zero": "zero2"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_corpus(tmp_path_factory.mktemp("words")))


def state_of(engine: Any) -> dict[tuple[str, str, int], torch.Tensor]:
    return {(f.name, f.state, f.start): f.values.clone() for f in engine.held()}


def counts_of(engine: Any) -> set[float]:
    """Adam's own counts of updates."""
    optimizer = engine.optimizer if hasattr(engine, "optimizer") else engine._torch_optimizer()
    return {float(state["step"]) for state in optimizer.state.values() if "step" in state}


def spoil_one_step(rank: int, world: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Two steps, one whose gradient is not finite on the last worker (two micro-batches), three more."""
    found = {}
    for kind in kinds:
        engine = make_engine(kind, world)
        train_steps(engine, rank, world, 0, 2)
        before = state_of(engine)
        bad = torch.full((2,), torch.nan if rank == world - 1 else 1.0) * 1e-2
        for last in (False, True):
            engine.accumulate(part_of(part_of(batch_of(2, "gpt"), rank, world), int(last), 2), bad, last)
        norm = engine.norm()
        engine.skip()
        after = state_of(engine)
        assert before.keys() == after.keys()
        same = all(torch.equal(before[key], after[key]) for key in before)
        rest = train_steps(engine, rank, world, 3, 6)
        clean = make_engine(kind, world)
        train_steps(clean, rank, world, 0, 2)
        found[kind] = (norm, same, counts_of(engine), rest, train_steps(clean, rank, world, 3, 6))
    return found


@pytest.mark.parametrize("world", [1, 2])
def test_a_skipped_step_leaves_no_trace(world: int) -> None:
    """Weights, moments and counts stay; what follows equals to the bit a run that never met the batch."""
    for found in run_workers(spoil_one_step, world, KINDS):
        for kind, (norm, same, counts, rest, clean) in found.items():
            assert not torch.tensor(norm).isfinite(), kind
            assert same, kind
            assert counts == {5.0}, kind
            assert rest == clean, kind


def norm_before_step(rank: int, world: int) -> dict[str, Any]:
    """What `norm` says before the update, and what DeepSpeed itself says after it."""
    found = {}
    for kind in KINDS[2:]:
        engine = make_engine(kind, world)
        records = train_steps(engine, rank, world, 0, 3)
        found[kind] = (records[-1][-1], float(engine.engine.get_global_grad_norm()))
    return found


def test_the_norm_is_the_one_that_deepspeed_clips_by() -> None:
    for kind, (ours, theirs) in run_workers(norm_before_step, 2)[0].items():
        assert ours == theirs > 0, kind


def skips_in_runs(rank: int, world: int, corpus: str, folder: str) -> None:
    """For each engine: a clean run, one with a bad step, the same in two parts; one that only fails."""
    for kind in KINDS:
        home = Path(folder) / kind
        train(rank, world, corpus, home / "clean", kind)
        train(rank, world, corpus, home / "bad", kind, BAD)
        train(rank, world, corpus, home / "parts", kind, BAD, steps=10, schedule={"kind": "constant"})
        train(rank, world, corpus, home / "parts", kind, steps=16, schedule={"kind": "constant"})
        train(rank, world, corpus, home / "whole", kind, BAD, steps=16, schedule={"kind": "constant"})
    with contextlib.suppress(RunError):
        train(rank, world, corpus, Path(folder) / "row", "zero1", "train.gradient:rank=1:inf", steps=20)
        raise AssertionError("it went on")


@pytest.fixture(scope="module")
def runs(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run_workers(skips_in_runs, 2, corpus, str(folder))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_is_not_finite_is_skipped(runs: Path, kind: str) -> None:
    """On both workers, counted and told; position and schedule go on; the end is that of a clean run."""
    rows = {row["step"]: row for row in rows_of(runs / kind / "bad")}
    clean = {row["step"]: row for row in rows_of(runs / kind / "clean")}
    assert [row["step"] for row in rows.values() if "skipped" in row] == [7]
    assert (rows[7]["skipped"], rows[7]["skipped_samples"]) == ("loss", [[24, 28]])
    assert rows[7]["loss"] is None and rows[7]["grad_norm"] is None
    for name in ("samples", "tokens", "lr", "sample_digest"):
        assert [rows[s][name] for s in range(1, 25)] == [clean[s][name] for s in range(1, 25)]
    assert [rows[s]["loss"] for s in range(1, 7)] == [clean[s]["loss"] for s in range(1, 7)]
    assert rows[9]["loss"] != clean[9]["loss"]
    assert rows[24]["loss"] == pytest.approx(clean[24]["loss"], rel=0.005)
    state = CheckpointReader(committed_folders(runs / kind / "bad/checkpoints")[0]).state
    assert (state.step, state.guard.skipped, state.updates) == (24, 1, 23)


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_after_a_skip(runs: Path, kind: str) -> None:
    """Stopped after the bad step and continued: to the bit the run that never stopped, moments included."""
    assert losses_of(runs / kind / "parts") == losses_of(runs / kind / "whole")
    ends = [committed_folders(runs / kind / name / "checkpoints")[0] for name in ("parts", "whole")]
    one, other = (CheckpointReader(end) for end in ends)
    assert one.state.guard == other.state.guard
    for info in one.tensors:
        for state in ("weight", "exp_avg_sq"):
            numel = torch.Size(info.shape).numel()
            assert (one.read(info.name, state, 0, numel) == other.read(info.name, state, 0, numel)).all()


def test_ten_in_a_row_end_the_run(runs: Path) -> None:
    failure = json.loads(RunFolder(runs / "row").failure.read_bytes())["message"]
    assert "step 10:" in failure and "10 steps in a row" in failure and "samples 0 to 39" in failure
    assert [row["skipped"] for row in rows_of(runs / "row") if "skipped" in row] == ["gradient"] * 10
    newest = CheckpointReader(committed_folders(runs / "row/checkpoints")[0])
    assert newest.state.step == 5
    assert all(value.isfinite().all() for value in newest.weights().values())


def spikes_in_runs(rank: int, world: int, corpus: str, folder: str) -> None:
    """A poisoned batch at step 16: skipped, gone around, and left out from the start."""
    home = Path(folder)
    train(rank, world, corpus, home / "off", "zero2", SPIKE)
    train(rank, world, corpus, home / "skip", "zero2", SPIKE, guard=SPIKES)
    constant = {"guard": SPIKES, "schedule": {"kind": "constant"}}
    train(rank, world, corpus, home / "whole", "zero2", SPIKE, **constant)
    train(rank, world, corpus, home / "parts", "zero2", SPIKE, steps=15, **constant)
    train(rank, world, corpus, home / "parts", "zero2", SPIKE, **constant)
    for kind in ("plain", "zero1", "zero2", "zero3"):
        train(rank, world, corpus, home / f"rewind-{kind}", kind, SPIKE, guard=REWIND, log_every=5)
        train(rank, world, corpus, home / f"without-{kind}", kind, guard=REWIND, skip_samples=[RANGE])


@pytest.fixture(scope="module")
def spiked(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spikes")
    run_workers(spikes_in_runs, 2, corpus, str(folder))
    return folder


def test_a_spike_is_skipped_by_choice_and_the_window_is_resumed(spiked: Path) -> None:
    assert not [row for row in rows_of(spiked / "off") if "skipped" in row]
    skipped = [row for row in rows_of(spiked / "skip") if "skipped" in row]
    assert [(row["step"], row["skipped"], row["skipped_samples"]) for row in skipped] == [
        (16, "spike", [[60, 64]])
    ]
    assert [row["step"] for row in rows_of(spiked / "parts") if "skipped" in row] == [16]
    assert losses_of(spiked / "parts") == losses_of(spiked / "whole")


@pytest.mark.parametrize("kind", ["plain", "zero1", "zero2", "zero3"])
def test_a_rewound_run_is_one_without_these_samples(spiked: Path, kind: str) -> None:
    """To the bit, to its last step; and its lines are those of one run, each step once."""
    rewound, without = spiked / f"rewind-{kind}", spiked / f"without-{kind}"
    rows = rows_of(rewound)
    assert [row["step"] for row in rows] == [0, 5, 10, 11, 15, 20, 24]
    assert (rows[3]["rewound_from"], rows[3]["left_out"]) == (16, [list(RANGE)])
    found, wanted = losses_of(rewound), losses_of(without)
    assert found == {step: wanted[step] for step in found}
    ends = [CheckpointReader(committed_folders(run / "checkpoints")[0]) for run in (rewound, without)]
    assert ends[0].state.guard.left_out == (RANGE,) and ends[0].state.guard.rewinds == 1
    assert ends[0].index["skips"] == ends[1].index["skips"] == [list(RANGE)]
    assert ends[0].state.next_number == ends[1].state.next_number == 24 * 4 + 8
    for (name, one), other in zip(ends[0].weights().items(), ends[1].weights().values(), strict=True):
        assert torch.equal(one, other), name


def alone(corpus: str, run: Path, fault: str = "", **changes: Any) -> None:
    train(0, 1, corpus, run, "plain", fault, selfcheck=False, **changes)


def test_so_many_rewinds_end_the_run(corpus: str, tmp_path: Path) -> None:
    faults = ",".join(f"train.loss:sample={sample}:1000" for sample in (61, 65))
    with pytest.raises(RunError, match=r"step 15: a spike .* taken back 1 times already"):
        alone(corpus, tmp_path, faults, guard={**REWIND, "max_rewinds": 1})
    assert rows_of(tmp_path)[-1]["step"] == 14
    alone(corpus, tmp_path, faults, guard={**REWIND, "max_rewinds": 2})  # the same run goes on
    newest = CheckpointReader(committed_folders(tmp_path / "checkpoints")[0])
    assert newest.state.guard.rewinds == 2
    assert newest.state.guard.left_out == (
        (52, 68),
    )  # batches of step 14 and of the next, joined with the first


def test_before_the_first_checkpoint_a_spike_is_skipped(corpus: str, tmp_path: Path) -> None:
    alone(corpus, tmp_path, SPIKE, guard=REWIND, checkpoint={"every": 20})
    assert [row["step"] for row in rows_of(tmp_path) if row.get("skipped") == "spike"] == [16]


def test_ranges_ahead_of_the_checkpoint_may_be_left_out(corpus: str, tmp_path: Path) -> None:
    """As in a run that left them out from its start; what lies behind the checkpoint stays as it was."""
    constant: dict[str, Any] = {"schedule": {"kind": "constant"}}
    alone(corpus, tmp_path / "run", steps=10, **constant)
    with pytest.raises(
        UserError, match=r"from sample 39 on.* stands at sample 40 .* one of step 5 \(sample 20"
    ):
        alone(corpus, tmp_path / "run", steps=14, skip_samples=[(39, 44)], **constant)
    with pytest.raises(UserError, match=r"from sample 3 on.*No checkpoint is left.* begins at 40 or later"):
        alone(corpus, tmp_path / "run", steps=14, skip_samples=[(3, 4)], **constant)
    alone(corpus, tmp_path / "run", steps=14, skip_samples=[(42, 44), (40, 43), (90, 99)], **constant)
    alone(corpus, tmp_path / "start", steps=14, skip_samples=[(40, 44), (90, 99)], **constant)
    assert losses_of(tmp_path / "run") == losses_of(tmp_path / "start")
    assert [row["samples"] for row in rows_of(tmp_path / "run")[10:12]] == [40, 48]
    with pytest.raises(UserError, match=r"from sample 40 on"):  # nor may it be taken back in
        alone(corpus, tmp_path / "run", steps=15, **constant)


def test_what_is_not_finite_is_not_saved(corpus: str, tmp_path: Path) -> None:
    """A step that is finite itself can still blow up the weights: that checkpoint is not committed."""
    huge = {"optimizer": {"lr": 3e38}, "schedule": {"kind": "constant", "warmup_steps": 0}}
    with pytest.raises(RunError, match=r"10 steps in a row"):
        alone(corpus, tmp_path, checkpoint={"every": 1, "keep": 99}, **huge)
    for folder in committed_folders(tmp_path / "checkpoints"):
        assert all(value.isfinite().all() for value in CheckpointReader(folder).weights().values())
