"""Layouts side by side: which fit, how large a micro-batch may be, and what is said when memory ends."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llm.settings import ModelSettings, PretrainSettings
from llm.train.memory import memory_of
from llm.train.out_of_memory import advice, is_out_of_memory
from llm.train.planning import CONTEXT, GIB, PROCESS, Room, fits, largest_micro_batch, layouts, name_of
from llm.train.worker import Job

MODEL = ModelSettings.model_validate({"preset": "gpt2-124m"})
VOCAB = 50_257


def settings_of(**changes: Any) -> PretrainSettings:
    return PretrainSettings.model_validate({"batch": 64, "micro_batch": 16, "length": 1024, **changes})


def test_every_stage_is_there_and_offload_on_gpus() -> None:
    names = [layout.name for layout in layouts(MODEL, settings_of(), VOCAB, 4, gpu=False)]
    assert names == ["plain", "ZeRO 0", "ZeRO 1", "ZeRO 2", "ZeRO 3"]
    on_gpus = layouts(MODEL, settings_of(), VOCAB, 4, gpu=True)
    host = {layout.name: layout.need.host - layout.need.snapshot for layout in on_gpus}
    assert [name for name, size in host.items() if size] == [name for name in host if "on the host" in name]
    assert len(host) == 9


def test_the_chosen_layout_is_among_them() -> None:
    chosen = settings_of(zero_stage=3, offload={"parameters": "cpu"})
    assert name_of(chosen) == "ZeRO 3, weights on the host"
    found = [
        layout for layout in layouts(MODEL, chosen, VOCAB, 2, gpu=False) if layout.name == name_of(chosen)
    ]
    assert [layout.settings for layout in found] == [chosen]


def test_more_workers_take_less_where_states_are_parted() -> None:
    for stage, falls in ((0, False), (1, True), (2, True), (3, True)):
        needs = [memory_of(MODEL, settings_of(zero_stage=stage), VOCAB, world) for world in (2, 8)]
        states = [need.peak.parts["optimizer"] for need in needs]
        assert (states[1] < states[0]) is falls


def test_what_fits() -> None:
    need = memory_of(MODEL, settings_of(engine="plain"), VOCAB, 1)
    least = need.device + need.host + PROCESS
    assert [fits(need, Room(size, None)) for size in (least, least - 1, None)] == [True, False, None]
    gpu = memory_of(MODEL, settings_of(offload={"optimizer": "cpu"}), VOCAB, 1, gpu=True)
    enough = Room(gpu.device + CONTEXT, gpu.host + PROCESS)
    assert fits(gpu, enough)
    assert fits(gpu, Room(enough.device, gpu.host)) is False
    assert fits(gpu, Room(gpu.device, enough.host)) is False


def test_the_largest_micro_batch_fits_and_the_next_does_not() -> None:
    settings = settings_of(engine="plain")
    room = Room(memory_of(MODEL, settings, VOCAB, 2).device * 3 // 2, None)
    rows = largest_micro_batch(MODEL, settings, VOCAB, 2, False, room)
    assert rows is not None and 1 <= rows < 32
    need = {
        more: memory_of(MODEL, settings.model_copy(update={"micro_batch": more}), VOCAB, 2)
        for more in (rows, 2 * rows)
    }
    assert [fits(n, room) for n in need.values()] == [True, False]
    assert largest_micro_batch(MODEL, settings, VOCAB, 2, False, Room(GIB // 4, None)) == 0
    assert largest_micro_batch(MODEL, settings, VOCAB, 2, False, Room(None, None)) is None


def job_of(settings: PretrainSettings) -> Job:
    """A job of these settings that is never begun."""
    return Job(
        model=MODEL.model_dump(mode="json"),
        section="pretrain",
        settings=settings.model_dump(mode="json"),
        data="corpus",
        vocab_size=VOCAB,
        start=None,
        run="run",
        run_id="run-1",
        launch="launch",
        lease={},
    )


def test_the_advice_has_the_plans_numbers() -> None:
    settings = settings_of(zero_stage=1)
    words = advice(job_of(settings), 4, gpu=True)
    now = memory_of(MODEL, settings, VOCAB, 4, gpu=True)
    half = memory_of(MODEL, settings.model_copy(update={"micro_batch": 8}), VOCAB, 4, gpu=True)
    assert f"each of 4 workers takes {now.device / GIB:.2f} GiB at {now.peak.name}" in words
    assert (
        f"pretrain.micro_batch 8 instead of 16 (the batch stays as it is): {half.device / GIB:.2f} GiB"
        in words
    )
    for name in ("pretrain.workers 8", "pretrain.offload.optimizer cpu",
                 "pretrain.activation_checkpointing true"):  # fmt: skip
        (size,) = re.findall(rf"{name}: ([\d.]+) GiB", words)
        assert float(size) < now.device / GIB


def test_a_higher_stage_is_advised_where_it_helps() -> None:
    settings = settings_of(zero_stage=0, micro_batch=1, length=64)
    words = advice(job_of(settings), 8, gpu=False)
    first = memory_of(MODEL, settings.model_copy(update={"zero_stage": 1}), VOCAB, 8)
    assert f"pretrain.zero_stage 1: {first.device / GIB:.2f} GiB" in words


def test_advice_tells_only_what_helps() -> None:
    settings = settings_of(zero_stage=3, batch=1, micro_batch=1, offload={"optimizer": "cpu"},
                           activation_checkpointing=True, selfcheck=False)  # fmt: skip
    words = advice(job_of(settings), 1, gpu=True)
    assert words.endswith("a smaller model, or a smaller pretrain.length")


@pytest.mark.parametrize(
    ("error", "is_it"),
    [(MemoryError(), True), (RuntimeError("Connection closed by peer"), False), (ValueError("can't"), False)],
)
def test_what_is_out_of_memory(error: BaseException, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it
