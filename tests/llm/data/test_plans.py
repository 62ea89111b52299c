"""Plans: samples of groups, their file, and orders over them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import UserError
from llm.data import BatchPlan, Loader, Order, order_of_corpus, rule_of
from llm.data.plans import make_plan
from llm.data.rows import Origin, Tables
from llm.data.rules import Kind, PlannedRule, StreamRule
from tests.llm.data.reference import VOCABULARY, Text, TextCorpus

CORPUS = TextCorpus({"train": {"a": Text(1, 200), "b": Text(2, 40)}})
PLANNED: list[Kind] = ["bestfit", "pairs", "segments"]
LENGTH = 48


def rule(kind: Kind, group: int = 1500) -> PlannedRule:
    found = rule_of(kind, LENGTH, vocabulary=VOCABULARY, seed=2, group_tokens=group)
    assert not isinstance(found, StreamRule)
    return found


def order(kind: Kind, plans: Path | None = None, group: int = 1500, corpus: TextCorpus = CORPUS) -> Order:
    return order_of_corpus(corpus, "train", None, 700, LENGTH, 4, rule=rule(kind, group), plans=plans)


def loader(
    kind: Kind, rank: int = 0, world: int = 1, batch: int = 32, micro: int = 8, groups: int = 1
) -> Loader:
    return Loader(CORPUS, "train", order(kind), BatchPlan([(0, batch)], groups=groups), rank, world, micro)


@pytest.mark.parametrize("kind", PLANNED)
def test_each_sample_once_an_epoch(kind: Kind) -> None:
    planned = sum(order(kind).samples_per_epoch)
    whole = order_of_corpus(CORPUS, "train", None, planned, LENGTH, 4, rule=rule(kind))
    assert whole.counts == whole.samples_per_epoch and whole.unread_per_epoch == [0, 0]
    picks = whole.picks(np.arange(3 * whole.cycle))
    for k, samples in enumerate(whole.samples_per_epoch):
        at, epoch = picks.at[picks.source == k], picks.epoch[picks.source == k]
        assert len(at) == 3 * samples
        for e in range(3):
            assert sorted(at[epoch == e].tolist()) == list(range(samples))
    some = np.random.default_rng(0).integers(0, 3 * whole.cycle, 50)
    for a, b in zip(whole.picks(some), picks, strict=True):
        assert np.array_equal(a, b[some])
    assert whole.standing(whole.cycle)[0].epoch == 1


@pytest.mark.parametrize("kind", PLANNED)
def test_the_order_of_digests_is_the_same_for_any_number_of_workers(kind: Kind) -> None:
    alone = [loader(kind).batch(step) for step in range(4)]
    rows = [np.concatenate([m.inputs[m.numbers >= 0] for m in batch.micro]) for batch in alone]
    for world, micro, groups in ((2, 8, 1), (3, 5, 1), (4, 3, 2)):
        workers = [loader(kind, rank, world, micro=micro, groups=groups) for rank in range(world)]
        for step, one in enumerate(alone):
            batches = [worker.batch(step) for worker in workers]
            assert sum(batch.digest for batch in batches) % 2**64 == one.digest
            assert sum(batch.tokens for batch in batches) == one.tokens > 0
            assert sum(batch.pairs for batch in batches) == one.pairs
            assert len({len(batch.micro) for batch in batches}) == 1
            if groups == 1:
                mine = [m.inputs[m.numbers >= 0] for batch in batches for m in batch.micro]
                assert np.array_equal(np.concatenate(mine), rows[step])
    assert len({batch.digest for batch in alone}) == 4


@given(st.sampled_from(PLANNED), st.integers(0, 60), st.integers(1, 4))
@settings(max_examples=15)
def test_any_step_at_any_time(kind: Kind, step: int, world: int) -> None:
    fresh = sum(loader(kind, rank, world, batch=8).batch(step).digest for rank in range(world)) % 2**64
    used = loader(kind, batch=8)
    used.batch(0)
    assert used.batch(step).digest == fresh


def test_the_digest_covers_what_the_model_sees() -> None:
    """Masks, labels: the same tokens otherwise."""
    digests = set()
    for seed in (1, 2):
        of_seed = rule_of("pairs", LENGTH, vocabulary=VOCABULARY, seed=seed)
        whole = order_of_corpus(CORPUS, "train", None, 700, LENGTH, 4, rule=of_seed)
        digests.add(Loader(CORPUS, "train", whole, BatchPlan([(0, 4)]), 0, 1, 4).batch(0).digest)
    assert len(digests) == 2


@pytest.mark.parametrize("kind", PLANNED)
def test_groups_cut_nothing(kind: Kind) -> None:
    """A document belongs to the group in which it begins; an empty group has no samples."""
    small = rule(kind, group=10)
    stream = CORPUS.stream("b", "train")
    plan = make_plan(stream, small)
    assert len(plan.ends) == -(-stream.tokens // 10) and (np.diff(plan.ends) == 0).any()
    for sample in range(plan.samples):
        group, number = plan.locate(sample)
        assert 0 <= number < small.table(stream, group).samples


@pytest.mark.parametrize("kind", PLANNED)
def test_a_plan_is_made_once(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = order(kind, tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(files) == 2 and all(path.name.startswith(f"{kind}-") for path in files)
    with monkeypatch.context() as patch:
        patch.setattr("llm.data.plans.make_plan", None)
        again = order(kind, tmp_path)
    assert again.describe() == made.describe()
    numbers = np.arange(500)
    assert all(np.array_equal(a, b) for a, b in zip(again.picks(numbers), made.picks(numbers), strict=True))
    order(kind, tmp_path, group=1600)
    other = TextCorpus({"train": {"a": Text(1, 200), "b": Text(2, 40)}}, "another")
    order(kind, tmp_path, corpus=other)
    assert len(list(tmp_path.iterdir())) == 6  # of another corpus, or rule: another file
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("at", [5, 100, -1, -9, None])
def test_a_damaged_plan_is_made_again(
    at: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = order("bestfit", tmp_path)
    path = min(tmp_path.iterdir())
    good = path.read_bytes()
    bad = bytearray(good if at is not None else good[:-8])
    if at is not None:
        bad[at] ^= 4
    path.write_bytes(bad)
    again = order("bestfit", tmp_path)
    assert f"warning: {path}: damaged plan, made again: " in capsys.readouterr().err
    assert path.read_bytes() == good and again.describe() == made.describe()


def test_a_plan_of_something_else_under_this_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order("bestfit", tmp_path)
    a, b = sorted(tmp_path.iterdir())
    good = a.read_bytes()
    a.write_bytes(b.read_bytes())
    order("bestfit", tmp_path)
    assert "it is a plan of {" in capsys.readouterr().err and a.read_bytes() == good


@pytest.mark.parametrize("kind", PLANNED)
def test_memory_is_bounded(kind: Kind) -> None:
    stream = CORPUS.stream("a", "train")
    packed = rule(kind, group=300)
    plan = make_plan(stream, packed)
    limit = 3 * packed.table(stream, 0).nbytes
    tables = Tables(packed, [Origin("a", stream, plan)], limit)
    sizes = set()
    for sample in np.random.default_rng(0).permutation(plan.samples).tolist():
        group, number = plan.locate(sample)
        table, found = tables.find(0, sample)
        assert found == number and table.samples == packed.table(stream, group).samples
        assert tables.nbytes == sum(kept.nbytes for kept in tables._kept.values())
        sizes.add(len(tables._kept))
        assert tables.nbytes <= limit or len(tables._kept) == 1
    assert max(sizes) > 1


def test_an_order_says_its_rule() -> None:
    said = order("pairs").describe()
    assert said["rule"] == "pairs"
    assert said["plan"] == {"name": "pairs", "version": 1, "length": LENGTH, "group": 1500}
    assert said["sources"][0]["samples"] == order("pairs").samples_per_epoch[0]
    assert json.loads(json.dumps(said)) == said
    stream = order_of_corpus(CORPUS, "train", None, 700, LENGTH, 4).describe()
    assert stream["rule"] == "stream" and set(stream) == {"sources", "length", "seed", "lanes", "rule"}
    assert set(stream["sources"][0]) == {"name", "tokens", "count"}


def test_a_source_without_a_sample_is_refused() -> None:
    empty = TextCorpus({"train": {"a": Text(1, 1)}})
    empty.splits["train"]["a"].stream._sentence_ends = np.zeros(0, np.int64)
    with pytest.raises(UserError, match="source 'a' has .* tokens, and no sample of length 48"):
        order("pairs", corpus=empty)


@pytest.mark.parametrize("kind", PLANNED)
def test_golden(kind: Kind) -> None:
    """Runs hang on these values: they may never change."""
    assert hex(loader(kind).batch(3).digest) == GOLDEN[kind]


GOLDEN = {"bestfit": "0x4e33bf3648b4688d", "pairs": "0x35c1f6bb5e637cfa", "segments": "0xa909ca616ff4cca3"}
