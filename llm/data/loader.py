"""Step to this worker's micro-batches: reads the tokens that the order asks for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from cluster.errors import RunError, UserError
from data_jobs.hashes import MASK64
from llm.data.batches import BatchPlan, affinity_order, micro_steps, worker_slice
from llm.data.order import Order
from llm.data.rows import TABLE_BYTES, Origin, row_maker
from llm.data.samples import Batch, MicroBatch, Picks
from llm.data.streams import Corpus

STEPS_AT_ONCE = 16  # the order's cost is per call, source and epoch: 3 times the samples/s of single batches


class SampleOrder(Protocol):
    """Sample numbers to what each sample is made from."""

    def picks(self, numbers: npt.NDArray[np.int64]) -> Picks:
        """Of any numbers, in any order."""
        ...

    def describe(self) -> dict[str, Any]:
        """All values that it depends on: of a checkpoint, which goes on in the same order alone."""
        ...


class RowMaker(Protocol):
    """What samples are made from to rows."""

    def expect(self, picks: Picks) -> None:
        """These will be made next."""
        ...

    def make(self, picks: Picks, rows: int) -> tuple[MicroBatch, int]:
        """A micro-batch of so many rows, those that are missing with weight 0, and the samples' digest."""
        ...


class BatchLoader:
    """The batches of a run for one worker; any step at any time, always the same values.

    The state of the data is `plan.next_number(step)`, nothing else. Raises UserError where a batch is
    smaller than the number of workers.
    """

    def __init__(
        self,
        order: SampleOrder,
        rows: RowMaker,
        plan: BatchPlan,
        rank: int,
        world: int,
        micro_batch: int,
        prefetch: int = 2,
    ) -> None:
        if micro_batch < 1 or prefetch < 1 or not 0 <= rank < world:
            raise UserError(
                f"micro-batch {micro_batch}, prefetch {prefetch}, worker {rank} of {world}: "
                "at least 1 each, and the worker within the number of workers"
            )
        plan.check_world(world)
        self._order, self._rows = order, rows
        self.plan, self.rank, self.world = plan, rank, world
        self.micro_batch, self.prefetch = micro_batch, prefetch
        self.wait_seconds = 0.0  # that consumers of `iterate` waited for data, in all
        self._block: tuple[int, list[Picks]] = (-1, [])

    def batch(self, step: int) -> Batch:
        """This worker's part of the batch at a step."""
        mine = self._mine(step)
        micro, digest = [], 0
        for index in range(micro_steps(self.plan.batch_size(step), self.world, self.micro_batch)):
            here = mine.part(slice(index * self.micro_batch, (index + 1) * self.micro_batch))
            made, seen = self._rows.make(here, self.micro_batch)
            micro.append(made)
            digest += seen
        return Batch(
            step=step,
            numbers=self.plan.numbers(step),
            next_number=self.plan.next_number(step + 1),
            micro=micro,
            cells=sum(m.inputs.shape[1] * int((m.numbers >= 0).sum()) for m in micro),
            tokens=float(sum(m.weights.sum(dtype="f8") for m in micro)),
            pairs=float(sum(m.next_weights.sum() for m in micro if m.next_weights is not None)),
            digest=digest & MASK64,
        )

    def iterate(self, from_step: int, to_step: int) -> Prefetch:
        """The batches of steps [from_step, to_step), made ahead in a background thread."""
        return Prefetch(self.batch, from_step, to_step, self.prefetch, self._waited)

    def restart(self, batches: Prefetch, step: int, plan: BatchPlan) -> None:
        """Let an iterator go on from another step, by another plan."""
        batches.close()
        self.plan, self._block = plan, (-1, [])
        batches.start(step)

    def _waited(self, seconds: float) -> None:
        self.wait_seconds += seconds

    def _mine(self, step: int) -> Picks:
        """This worker's samples of a step; the order is asked for a block of steps at once."""
        block, at = divmod(step, STEPS_AT_ONCE)
        kept = self._block
        if kept[0] != block:
            kept = self._block = (block, self._ask(block * STEPS_AT_ONCE))
        return kept[1][at]

    def _ask(self, first: int) -> list[Picks]:
        numbers = self.plan.numbers(first, STEPS_AT_ONCE)
        cuts, end = [], 0
        for step in range(first, first + STEPS_AT_ONCE):
            begin, end = end, end + self.plan.batch_size(step)
            batch = self._sorted(numbers[begin:end])
            cuts.append(batch[worker_slice(len(batch), self.rank, self.world)])
        picks = self._order.picks(np.concatenate(cuts))
        self._rows.expect(picks)
        ends = np.cumsum([len(cut) for cut in cuts])
        return [picks.part(slice(end - len(cut), end)) for cut, end in zip(cuts, ends, strict=True)]

    def _sorted(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """A batch as it is cut among the workers."""
        return numbers


class Loader(BatchLoader):
    """The batches of a corpus. RunError where it is not the one that the order was made for."""

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        order: Order,
        plan: BatchPlan,
        rank: int,
        world: int,
        micro_batch: int,
        prefetch: int = 2,
        table_bytes: int = TABLE_BYTES,
    ) -> None:
        """`table_bytes`: memory for what a rule that packs keeps of its groups, beside one group's."""
        origins = [Origin(s.name, corpus.stream(s.name, split), s.plan) for s in order.sources]
        for source, (_, stream, _) in zip(order.sources, origins, strict=True):
            if stream.tokens != source.tokens:
                raise RunError(
                    f"source '{source.name}' of corpus {corpus.corpus_id} has {stream.tokens} tokens in "
                    f"split '{split}', the order was made for {source.tokens}: this is another corpus"
                )
        rows = row_maker(order.rule, origins, table_bytes)
        super().__init__(order, rows, plan, rank, world, micro_batch, prefetch)
        self.order = order

    def _sorted(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        if self.plan.groups == 1:
            return numbers
        return numbers[affinity_order(self.order.positions(numbers)[1], numbers, self.plan.groups)]


class Prefetch(Iterator[Batch]):
    """Batches of consecutive steps from a background thread, `depth` of them ahead.

    What goes wrong in the thread is raised by `next`, with the thread's traceback. `close` (or leaving a
    `with`) stops the thread; the last batch ends it.
    """

    def __init__(
        self,
        make: Callable[[int], Batch],
        from_step: int,
        to_step: int,
        depth: int,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._make, self._to_step, self._depth, self._waited = make, to_step, depth, waited
        self.wait_seconds = 0.0
        self.start(from_step)

    def start(self, from_step: int) -> None:
        """Begin at a step; after `close` also anew."""
        self._queue: queue.Queue[Batch | BaseException | None] = queue.Queue(self._depth)
        self._stop = threading.Event()
        self._ended = False
        # The thread holds no reference to self, so that a Prefetch that is dropped is closed by __del__.
        self._thread = threading.Thread(
            target=_produce,
            args=(self._make, from_step, self._to_step, self._queue, self._stop),
            name=f"prefetch-{from_step}",
            daemon=True,
        )
        self._thread.start()

    def __next__(self) -> Batch:
        if self._ended:
            raise StopIteration
        begin = time.perf_counter()
        item = self._queue.get()
        seconds = time.perf_counter() - begin
        self.wait_seconds += seconds
        self._waited(seconds)
        if isinstance(item, Batch):
            return item
        self.close()
        if item is None:
            raise StopIteration
        raise item

    def close(self) -> None:
        """Stop the thread; the iterator is at its end. May be called twice."""
        self._ended = True
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._stop.set()


def _produce(
    make: Callable[[int], Batch],
    from_step: int,
    to_step: int,
    into: queue.Queue[Batch | BaseException | None],
    stop: threading.Event,
) -> None:
    try:
        for step in range(from_step, to_step):
            if stop.is_set() or not _put(make(step), into, stop):
                return
        _put(None, into, stop)
    except BaseException as error:  # whatever it is, it belongs to the consumer
        _put(error, into, stop)


def _put(
    item: Batch | BaseException | None,
    into: queue.Queue[Batch | BaseException | None],
    stop: threading.Event,
) -> bool:
    """Put an item when there is room; False when the consumer is gone."""
    while not stop.is_set():
        try:
            into.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
