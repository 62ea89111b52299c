"""Which layouts a run could have, what each takes of a worker's memory, what would fit: advice in numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from llm.settings import ModelSettings, PretrainSettings
from llm.train.memory import Need, memory_of
from llm.train.run_order import even_micro_batch
from llm.training_settings import OffloadSettings

GIB = 2**30
# What a process holds before it makes its model, about what Ray Train's workers do. Of a GPU's memory: CUDA's
# context and the libraries' own, an assumption, not measured.
PROCESS = 500 * 2**20
CONTEXT = GIB


class Layout(NamedTuple):
    """One way to run a recipe."""

    name: str
    settings: PretrainSettings
    need: Need


class Room(NamedTuple):
    """What there is for each worker, in bytes; None: not known."""

    device: int | None
    """Of a GPU, or of the machine's memory for each worker."""
    host: int | None
    """GPU: of the machine's memory for each worker."""


def with_changes(settings: PretrainSettings, **changes: Any) -> PretrainSettings:
    """The same settings but for some fields, which are not checked against each other: what if."""
    return settings.model_copy(update=changes)


def name_of(settings: PretrainSettings) -> str:
    """An engine in words."""
    if settings.engine == "plain":
        return "plain"
    offload = settings.offload
    there = [
        n
        for n, where in (("optimizer", offload.optimizer), ("weights", offload.parameters))
        if where != "none"
    ]
    return f"ZeRO {settings.zero_stage}" + (f", {' and '.join(there)} on the host" if there else "")


def layouts(
    model: ModelSettings, settings: PretrainSettings, vocab_size: int, workers: int, gpu: bool
) -> list[Layout]:
    """Every engine and stage, the one that is chosen as it is; offload where it frees memory of a GPU."""
    none, states = OffloadSettings(), OffloadSettings(optimizer="cpu")
    choices: list[tuple[str, int, OffloadSettings]] = [("plain", 0, none)]
    choices += [("deepspeed", stage, none) for stage in range(4)]
    if gpu:
        choices += [("deepspeed", stage, states) for stage in (1, 2, 3)]
        choices.append(("deepspeed", 3, OffloadSettings(optimizer="cpu", parameters="cpu")))
    tried = [
        with_changes(settings, engine=engine, zero_stage=stage, offload=offload)
        for engine, stage, offload in choices
    ]
    names = {name_of(one): one for one in tried} | {name_of(settings): settings}
    return [Layout(name, one, memory_of(model, one, vocab_size, workers, gpu)) for name, one in names.items()]


def fits(need: Need, room: Room) -> bool | None:
    """Whether a worker has what it needs; None where that is not known."""
    if room.device is None:
        return None
    if not need.gpu:
        return need.device + need.host + PROCESS <= room.device
    on_host = room.host is None or need.host + PROCESS <= room.host
    return need.device + CONTEXT <= room.device and on_host


def largest_micro_batch(
    model: ModelSettings, settings: PretrainSettings, vocab_size: int, workers: int, gpu: bool, room: Room
) -> int | None:
    """The largest `micro_batch` of these settings that fits, 0: not even 1; None: the room is not known."""
    if room.device is None:
        return None
    share = -(-settings.batch // workers)
    for rows in sorted(
        {even_micro_batch(settings.batch, workers, m) for m in range(1, share + 1)}, reverse=True
    ):
        tried = with_changes(settings, micro_batch=rows)
        if fits(memory_of(model, tried, vocab_size, workers, gpu), room):
            return rows
    return 0


def gib(size: float) -> str:
    """Bytes in words."""
    return f"{size / GIB:.2f} GiB"
