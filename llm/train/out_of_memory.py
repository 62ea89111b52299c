"""What a worker says when memory is not enough: what it takes, and what each change would take."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llm.settings import ModelSettings, PretrainSettings
from llm.train.job import Job
from llm.train.memory import Need, memory_of
from llm.train.planning import GIB, gib, with_changes
from llm.train.run_order import even_micro_batch
from llm.training_settings import OffloadSettings

CPU_IS_FULL = "can't allocate memory"  # torch has no class of error for it


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory, or this machine's, was not enough."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and CPU_IS_FULL in str(error)
    )


def advice(job: Job, workers: int, gpu: bool) -> str:
    """What the running settings take of a worker by the plan, and what each change that helps would take."""
    shape, settings, vocab_size = ModelSettings.model_validate(job.model), job.parsed(), job.vocab_size
    if not isinstance(settings, PretrainSettings):  # a task's head and its rows are not in the plan
        return (
            f"out of memory. Lower {settings.section}.micro_batch (now {settings.micro_batch}; the batch "
            f"stays as it is) or {settings.section}.length, raise workers or zero_stage, or train adapters "
            "alone (lora.rank)"
        )
    now = memory_of(shape, settings, vocab_size, workers, gpu)
    changes = [
        f"{words}: {gib(need.device)}{_on_host(need)}"
        for words, need in _changes(shape, settings, vocab_size, workers, gpu)
        if need.device < now.device
    ]
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in now.peak.parts.items())
    what = f"{gib(now.device)} at {now.peak.name} ({parts}){_on_host(now)}"
    lower = "; ".join(changes) or "a smaller model, or a smaller pretrain.length"
    who = f"each of {workers} workers" if workers > 1 else "the one worker"
    return f"out of memory: by the plan {who} takes {what}. What would take less: {lower}"


def _on_host(need: Need) -> str:
    """What is offloaded, in words."""
    offloaded = need.host - need.snapshot
    return f", and {gib(offloaded)} on the host" if offloaded else ""


def _changes(
    model: ModelSettings, settings: PretrainSettings, vocab_size: int, workers: int, gpu: bool
) -> Iterator[tuple[str, Need]]:
    """Changes in words, with what a worker would take."""

    def need(changed: PretrainSettings, of: int = workers) -> Need:
        return memory_of(model, changed, vocab_size, of, gpu)

    rows = even_micro_batch(settings.batch, workers, settings.micro_batch)
    if rows > 1:
        words = f"pretrain.micro_batch {rows // 2} instead of {rows} (the batch stays as it is)"
        yield words, need(with_changes(settings, micro_batch=rows // 2))
    if not settings.activation_checkpointing:
        yield (
            "pretrain.activation_checkpointing true",
            need(with_changes(settings, activation_checkpointing=True)),
        )
    if settings.selfcheck:
        yield "pretrain.selfcheck false", need(with_changes(settings, selfcheck=False))
    zero = settings.engine == "deepspeed"
    for stage in range(settings.zero_stage + 1 if zero else 1, 4):
        words = f"pretrain.zero_stage {stage}" + ("" if zero else " with pretrain.engine deepspeed")
        yield words, need(with_changes(settings, engine="deepspeed", zero_stage=stage))
    if settings.batch >= 2 * workers:
        yield f"pretrain.workers {2 * workers}", need(settings, 2 * workers)
    if gpu and settings.offload.optimizer == "none":
        stage = max(1, settings.zero_stage) if zero else 1
        offload = OffloadSettings(optimizer="cpu")
        words = "pretrain.offload.optimizer cpu" + ("" if zero and settings.zero_stage else " with ZeRO 1")
        yield words, need(with_changes(settings, engine="deepspeed", zero_stage=stage, offload=offload))
