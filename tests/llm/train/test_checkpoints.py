"""Checkpoints: the rest of a run equals never stopping; what is damaged is never loaded."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from cluster import places
from cluster.errors import RunError
from cluster.lease import Superseded
from cluster.places import PlaceError
from llm.train.checkpoints import layout
from llm.train.checkpoints.chunks import CHUNK, ChunkReader, write_tensors
from llm.train.checkpoints.layout import RunState, TensorInfo
from llm.train.checkpoints.load import CheckpointReader, load_newest, newest_good
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver, committed_folders, owned, sweep_torn
from llm.train.engine import STATES, Fragment
from llm.train.group import Group
from tests.llm.train.processes import run_workers
from tests.llm.train.test_engines import KINDS, OPTIMIZERS, make_engine, train_steps

SAVED_AT, END = 4, 8
OTHERS = [
    ("plain", "zero3"),
    ("zero0", "zero2"),
    ("zero1", "zero3"),
    ("zero2", "zero1"),
    ("zero3", "zero1"),
    ("zero3", "plain"),
    ("zero2", "zero2-cpu"),
    ("zero3-cpu", "zero1"),
]


def group_of(rank: int, world: int) -> Group:
    return Group(rank, world, torch.device("cpu"))


def train_save_go_on(rank: int, world: int, folder: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Four steps, a checkpoint, four more steps: the losses of the latter, with each kind of engine."""
    found = {}
    for kind in kinds:
        engine = make_engine(kind, world)
        train_steps(engine, rank, world, 0, SAVED_AT)
        attempt = group_of(rank, world).new_attempt()
        saver = CheckpointSaver(
            places.at(folder) / f"{kind}-{world}", engine, rank, world, attempt, Keep(2), {}
        )
        saver.save(RunState(SAVED_AT, 32, 512, "run"))
        found[kind] = train_steps(engine, rank, world, SAVED_AT, END)  # while it is being written
        saver.finish()
    return found


def resume(rank: int, world: int, folder: str, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], Any]:
    """From a saved checkpoint, with a kind of engine: the losses of the last four steps."""
    found = {}
    for name, kind in pairs:
        engine = make_engine(kind, world)
        state = load_newest(places.at(folder) / name, engine, group_of(rank, world), lambda reader: None)
        assert state == RunState(SAVED_AT, 32, 512, "run")
        found[name, kind] = train_steps(engine, rank, world, SAVED_AT, END)
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[int, dict[str, Any]]]:
    """Checkpoints of every engine with 1 and 2 workers, and how those runs went on."""
    folder = str(tmp_path_factory.mktemp("saved"))
    return folder, {world: run_workers(train_save_go_on, world, folder, KINDS)[0] for world in (1, 2)}


@pytest.mark.parametrize("world", [1, 2])
def test_any_world_and_stage_resumes_into_any_other(saved: Any, world: int) -> None:
    """Same world and engine: to the bit. Any other: within 1e-5 relative."""
    folder, truth = saved
    same = [(f"{kind}-{world}", kind) for kind in KINDS]
    other = [(f"{kind}-{w}", into) for kind, into in OTHERS for w in (1, 2)]
    found = run_workers(resume, world, folder, same + other)[0]
    for (name, kind), losses in found.items():
        if (name, kind) in same:
            assert losses == truth[world][kind], name
        torch.testing.assert_close(
            torch.tensor(losses),
            torch.tensor(truth[1]["plain"]),
            rtol=1e-5,
            atol=0,
            msg=f"{name} into {kind}-{world}",
        )


SAVED_BY = {"sgd": "zero2", "lion": "zero3", "muon": "zero1"}


def save_and_resume(rank: int, world: int, folder: str) -> dict[str, list[Any]]:
    """With each optimizer: the last four steps after no stop, and after loading into engines."""
    found: dict[str, list[Any]] = {}
    for name, saves in SAVED_BY.items():
        place = places.at(folder) / name
        for kind in (saves, saves, "plain", "zero1", "zero3"):
            engine = make_engine(kind, world, optimizer=OPTIMIZERS[name])
            if name not in found:
                train_steps(engine, rank, world, 0, SAVED_AT)
                attempt = group_of(rank, world).new_attempt()
                saver = CheckpointSaver(place, engine, rank, world, attempt, Keep(2), {})
                saver.save(RunState(SAVED_AT, 32, 512, "run"))
                saver.finish()
            else:
                load_newest(place, engine, group_of(rank, world), lambda reader: None)
            found.setdefault(name, []).append(train_steps(engine, rank, world, SAVED_AT, END))
    return found


def test_each_optimizers_state_is_saved(tmp_path: Path) -> None:
    """The same engine to the bit, others within 1e-5; with two workers, whose parts cut matrices."""
    for truth, same, *others in run_workers(save_and_resume, 2, str(tmp_path))[0].values():
        assert same == truth
        for losses in others:
            torch.testing.assert_close(torch.tensor(losses), torch.tensor(truth), rtol=1e-5, atol=0)
    for name, states in {"sgd": "momentum_buffer", "lion": "exp_avg", "muon": "momentum_buffer"}.items():
        index = layout.index_from_bytes(next(tmp_path.glob(f"{name}/*/index.json")).read_bytes())
        kept = {t["name"]: t["states"] for t in index["tensors"]}
        assert kept["blocks.0.attention.out.weight"] == ["weight", states]


def copy_of(saved: Any, tmp_path: Path, name: str = "zero1-2") -> Path:
    target = tmp_path / "checkpoints"
    shutil.copytree(Path(saved[0]) / name, target)
    return target


def test_every_flip_truncation_and_loss_is_found(saved: Any, tmp_path: Path) -> None:
    """Each file of a checkpoint, flipped at random bytes, cut and removed: refused by name, never loaded."""
    checkpoint = committed_folders(copy_of(saved, tmp_path))[0]
    engine = make_engine("plain", 1)
    random.seed(7)
    cases = 0
    for path in sorted(checkpoint.iterdir()):
        good = path.read_bytes()
        at = random.randrange(len(good))
        flipped = good[:at] + bytes([good[at] ^ (1 << random.randrange(8))]) + good[at + 1 :]
        for bad in (flipped, good[: len(good) // 2], b"", None):
            path.unlink() if bad is None else path.write_bytes(bad)
            before = [f.values.clone() for f in engine.held()]
            if path.name == layout.INDEX and bad is None:  # no index: it was never committed
                assert load_newest(checkpoint.parent, engine, group_of(0, 1), lambda r: None) is None
            else:
                with pytest.raises(RunError, match=str(path)):
                    load_newest(checkpoint.parent, engine, group_of(0, 1), lambda r: None)
            assert all(torch.equal(f.values, b) for f, b in zip(engine.held(), before, strict=True))
            path.write_bytes(good)
            cases += 1
    assert cases == 4 * len(list(checkpoint.iterdir())) == 32
    assert load_newest(checkpoint.parent, engine, group_of(0, 1), lambda r: None) is not None


def test_the_one_before_is_taken_with_a_warning(saved: Any, tmp_path: Path, capsys: Any) -> None:
    folder = copy_of(saved, tmp_path)
    older = committed_folders(folder)[0]
    newer = folder / layout.folder_name(SAVED_AT + 1, "ab" * 6)
    shutil.copytree(older, newer)
    weights = next(newer.glob("weights-0*"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load_newest(folder, make_engine("plain", 1), group_of(0, 1), lambda r: None) is not None
    warning = capsys.readouterr().err
    assert str(weights) in warning and "chunk 0" in warning and "digest" in warning


class Doubtful(Group):
    """A group in which another worker always says no."""

    def agree(self, yes: bool) -> bool:
        return False


def test_a_worker_that_cannot_read_holds_all_back(saved: Any, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    engine = make_engine("plain", 1)
    before = [f.values.clone() for f in engine.held()]
    with pytest.raises(RunError, match="another worker could not read its part"):
        load_newest(folder, engine, Doubtful(0, 1, torch.device("cpu")), lambda r: None)
    assert all(torch.equal(f.values, b) for f, b in zip(engine.held(), before, strict=True))


def test_storage_that_is_away_is_no_damage(
    saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Whichever worker it is away for: all raise, and no older checkpoint is taken."""
    folder, engine = copy_of(saved, tmp_path), make_engine("plain", 1)

    class Away(Group):
        def sum(self, values: list[float]) -> list[float]:
            return [1.0] * len(values)  # another worker's

    with pytest.raises(PlaceError, match="another worker could not read it"):
        load_newest(folder, engine, Away(0, 1, torch.device("cpu")), lambda r: None)

    def fails(path: Path, start: int, length: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(places, "read_range", fails)
    with pytest.raises(
        PlaceError, match=f"{folder}.*: cannot be read: Input/output error; see to the storage"
    ):
        load_newest(folder, engine, group_of(0, 1), lambda r: None)
    assert "passed over" not in capsys.readouterr().err


def test_files_are_safetensors_and_weights_need_no_optimizer(saved: Any, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    checkpoint = committed_folders(folder)[0]
    values = load_file(next(checkpoint.glob("weights-1*")))
    assert values and all(v.dtype == np.float32 for v in values.values())
    for file in checkpoint.glob("optim-*"):
        file.unlink()
    found = newest_good(folder, CheckpointReader.weights)
    assert found is not None
    _, weights = found
    model = make_engine("plain", 1).objective.model
    model.load_state_dict(weights)
    whole = {name: value.detach().numpy().ravel() for name, value in model.named_parameters()}
    for key, part in values.items():
        name, state, start = key.rsplit(".", 2)
        assert state == "weight"
        assert np.array_equal(whole[name][int(start) : int(start) + part.size], part)


def test_nothing_uncommitted_is_seen_and_it_is_swept(saved: Any, tmp_path: Path) -> None:
    folder = copy_of(saved, tmp_path)
    torn = folder / layout.folder_name(9, "cd" * 6)
    shutil.copytree(committed_folders(folder)[0], torn)
    (torn / layout.INDEX).unlink()
    assert torn not in committed_folders(folder)
    sweep_torn(folder)
    assert not torn.exists() and len(committed_folders(folder)) == 1


def test_a_receipt_of_another_attempt_commits_nothing(tmp_path: Path, capsys: Any) -> None:
    engine = make_engine("plain", 1)
    saver = CheckpointSaver(tmp_path, engine, 0, 1, "ab" * 6, Keep(2), {})
    receipt = layout.Receipt("ef" * 6, 0, 1, (), ())
    saver._write_files = lambda *args: receipt  # type: ignore[method-assign]
    saver.save(RunState(1, 8, 128, "run"))
    with pytest.raises(RunError, match="another attempt"):
        saver.finish()
    assert committed_folders(tmp_path) == []


@pytest.mark.parametrize("world", range(1, 10))
def test_owners_cover_each_element_once(world: int) -> None:
    tensors = [TensorInfo(f"t{i}", shape) for i, shape in enumerate([(3, 5), (1,), (7,), (2, 2, 2), (1,)])]
    held = [Fragment(t.name, s, 0, torch.arange(float(np.prod(t.shape)))) for t in tensors for s in STATES]
    seen: dict[tuple[str, str], list[int]] = {}
    for rank in range(world):
        for f in owned(held, tensors, rank, world):
            assert f.values.tolist() == list(range(f.start, f.start + f.values.numel()))
            seen.setdefault((f.name, f.state), []).extend(int(v) for v in f.values)
    assert seen == {(t.name, s): list(range(int(np.prod(t.shape)))) for t in tensors for s in STATES}


@pytest.mark.parametrize("change", ["gap", "overlap", "missing"])
def test_a_wrong_cover_is_not_committed(change: str) -> None:
    tensors = [TensorInfo("a", (6,)), TensorInfo("b", (2,))]
    rows = [(t, s, 0, n, 0, 0) for t, n in ((0, 6), (1, 2)) for s in range(3)]
    good = layout.Receipt("a", 0, 1, (), tuple(rows))
    layout.check_cover(layout.fragment_columns([good]), tensors)
    if change == "gap":
        rows[1] = (0, 1, 0, 5, 0, 0)
    elif change == "overlap":
        rows.append((0, 1, 3, 3, 0, 0))
    else:
        del rows[-1]
    with pytest.raises(RunError, match="gap or an overlap"):
        layout.check_cover(layout.fragment_columns([layout.Receipt("a", 0, 1, (), tuple(rows))]), tensors)


def test_ranges_across_chunks(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(CHUNK // 2).astype(np.float32)  # 2 MiB and a header
    file, starts = write_tensors(tmp_path, "x.safetensors", [("a", values[:5]), ("b", values[5:])])
    assert len(file.chunks) == 3
    reader = ChunkReader(tmp_path, file)
    for first, length in ((0, 1), (CHUNK // 4 - 3, 6), (1000, CHUNK // 4 + 77), (values.size - 5 - 1, 1)):
        data = reader.read(starts[1] + 4 * first, 4 * length)
        assert np.array_equal(np.frombuffer(data, np.float32), values[5 + first : 5 + first + length])


KILLED = """
import sys
from cluster import places
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver
from tests.llm.train.test_engines import make_engine, train_steps
engine = make_engine("plain", 1)
saver = CheckpointSaver(places.at(sys.argv[1]), engine, 0, 1, sys.argv[2], Keep(2), {})
for step in (0, 1):
    train_steps(engine, 0, 1, step, step + 1)
    saver.save(RunState(step + 1, 8 * (step + 1), 0, "run"))
    saver.finish()
"""


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("after_weights", 1),
        ("after_optim", 1),
        ("before_receipt", 1),
        ("before_index", 1),
        ("after_index", 2),
    ],
)
def test_killed_at_each_point_of_a_commit(tmp_path: Path, point: str, left: int) -> None:
    """SIGKILL while the second checkpoint is written: the first stands or the second, never a mixture."""
    env = os.environ | {"MANTA_FAULT": f"checkpoint.{point}:step=2"}
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "ab" * 6], check=False, env=env)
    assert done.returncode == -9
    engine = make_engine("plain", 1)
    state = load_newest(tmp_path, engine, group_of(0, 1), lambda r: None)
    assert state is not None and state.step == left
    reference = make_engine("plain", 1)
    train_steps(reference, 0, 1, 0, left)
    assert train_steps(engine, 0, 1, left, 5) == train_steps(reference, 0, 1, left, 5)


def test_whatever_fails_in_the_background_is_told(tmp_path: Path) -> None:
    saver = CheckpointSaver(tmp_path, make_engine("plain", 1), 0, 1, "ab" * 6, Keep(1), {"settings": {1, 2}})
    saver.save(RunState(1, 8, 0, "run"))
    with pytest.raises(RunError, match="the last checkpoint failed"):
        saver.finish()


def test_a_worker_that_cannot_write_is_told_at_once(tmp_path: Path, capsys: Any) -> None:
    """The other's failure reaches the first by its receipt: nothing is committed, nothing waited for."""
    savers = [CheckpointSaver(tmp_path, make_engine("plain", 2), r, 2, "ab" * 6, Keep(2), {}) for r in (0, 1)]
    first, second = savers

    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    second._write_files = full  # type: ignore[method-assign]
    for saver in (second, first):
        saver.save(RunState(1, 8, 0, "run"))
    before = time.monotonic()
    with pytest.raises(RunError, match="No space left.*MB free there"):
        second.finish()
    with pytest.raises(RunError, match="another worker could not write.*No space left"):
        first.finish()
    assert time.monotonic() - before < 5
    assert not list(tmp_path.iterdir()), "what was written is freed"


FULL = """
import resource, sys
from pathlib import Path
from llm.train.checkpoints.layout import RunState
from llm.train.checkpoints.retention import Keep
from llm.train.checkpoints.save import CheckpointSaver
from tests.llm.train.test_engines import make_engine
engine = make_engine("plain", 1)
saver = CheckpointSaver(Path(sys.argv[1]), engine, 0, 1, "ab" * 6, Keep(9), {})
for step in range(1, 5):
    saver.save(RunState(step, 8 * step, 0, "run"))
    if step == 1:
        saver.finish()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
saver.wait()
"""


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    """Training goes on with a warning that names the folder; after three in a row it stops."""
    words = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 1 and "3 checkpoints in a row failed" in done.stderr, done.stderr
    assert f"warning: checkpoint {tmp_path}/step-000000002" in done.stderr and "MB free there" in done.stderr
    assert [CheckpointReader(f).state.step for f in committed_folders(tmp_path)] == [1]
    assert len(list(tmp_path.iterdir())) == 1, "no torn folder is left"


def test_a_superseded_writer_commits_nothing(tmp_path: Path) -> None:
    """Another took the run over: asked before the index, and where that was too early, the folder is gone."""
    taken = threading.Event()

    def check() -> None:
        if taken.is_set():
            raise Superseded("another writes")

    saver = CheckpointSaver(tmp_path, make_engine("plain", 1), 0, 1, "ab" * 6, Keep(2), {}, check)
    saver.save(RunState(1, 8, 0, "run"))
    saver.finish()
    taken.set()
    saver.save(RunState(2, 16, 0, "run"))
    with pytest.raises(Superseded):
        saver.finish()
    assert [CheckpointReader(f).state.step for f in committed_folders(tmp_path)] == [1]
    late = CheckpointSaver(
        tmp_path, make_engine("plain", 1), 0, 1, "cd" * 6, Keep(2), {}, lambda: sweep_torn(tmp_path)
    )
    late.save(RunState(3, 24, 0, "run"))
    with pytest.raises(RunError, match="the last checkpoint failed"):
        late.finish()
    assert [CheckpointReader(f).state.step for f in committed_folders(tmp_path)] == [1]
