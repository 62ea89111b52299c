"""The parts of the `pretrain` section: optimizer, schedule, guard, what is saved, shown and tracked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_serializer, model_validator

from cluster.fields import Settings, free, identity, plan


class OptimizerSettings(Settings):
    """What becomes of the gradient. llm.train.optimizers says what each optimizer does, with its source.

    Where a field is not of the chosen kind, it must not be given.
    """

    kind: Literal["adamw", "adam", "sgd", "lion", "muon"] = identity(
        "adamw", "adamw; adam: with coupled weight decay; sgd: with momentum; lion; muon: matrices of the "
        "blocks, and adamw for the rest"
    )  # fmt: skip
    lr: float = plan(1e-3, "peak learning rate", gt=0)
    beta1: float = plan(0.9, "adam, adamw, lion, muon's rest: decay of the gradient's mean", ge=0, lt=1)
    beta2: float = plan(
        0.95, "adam, adamw, muon's rest: decay of the gradient's square; lion: of its mean", ge=0, lt=1
    )
    eps: float = plan(1e-8, "adam, adamw, muon's rest: added to the root of the square", gt=0)
    momentum: float = plan(0.95, "sgd, muon: decay of the sum of gradients", ge=0, lt=1)
    nesterov: bool = plan(True, "sgd, muon: look ahead along the momentum, where there is one")
    weight_decay: float = plan(
        0.1, "of matrices: decoupled, times the learning rate; sgd, adam: added to the gradient", ge=0
    )
    embedding_decay: float | None = plan(
        None, "weight decay of embeddings and of what shares their weights (default: that of matrices)", ge=0
    )
    vector_decay: float = plan(0.0, "weight decay of norms and biases", ge=0)
    clip: float = plan(1.0, "largest norm of the whole gradient; 0: no clipping", ge=0)

    @model_validator(mode="after")
    def _fields_of_the_kind(self) -> OptimizerSettings:
        unused = {
            name
            for name, kinds in KINDS_OF_FIELD.items()
            if self.kind not in kinds and getattr(self, name) != type(self).model_fields[name].default
        }
        if unused:
            raise ValueError(f"{', '.join(sorted(unused))}: not used by optimizer {self.kind}; leave it out")
        return self


ADAMS = ("adam", "adamw", "muon")
KINDS_OF_FIELD = {
    "beta1": (*ADAMS, "lion"),
    "beta2": (*ADAMS, "lion"),
    "eps": ADAMS,
    "momentum": ("sgd", "muon"),
    "nesterov": ("sgd", "muon"),
}


class LossScaleSettings(Settings):
    """fp16: by what the loss is multiplied, so that small gradients survive (Micikevicius et al. 2018).

    A step whose gradient is not finite is skipped and the scale divided by `factor`; after `window` steps
    without one it is multiplied by it.
    """

    initial: float = plan(65536.0, "scale of the first step", gt=0)
    factor: float = plan(2.0, "what it is divided or multiplied by", gt=1)
    window: int = plan(2000, "steps without overflow after which it grows", ge=1)
    least: float = plan(1.0, "below it the scale does not fall: then the guard counts the step", gt=0)


class ScheduleSettings(Settings):
    """Learning rate as a share of its peak, a pure function of the step."""

    kind: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt"] = plan(
        "cosine", "shape of the decay after the warm-up"
    )
    warmup_steps: float | None = plan(
        None,
        "steps of linear warm-up from zero, below 1 as a share of all (default: a tenth, at most 100)",
        ge=0,
    )
    decay_steps: float | None = plan(
        None, "wsd: steps of the final decay, below 1 as a share of all (default: a fifth)", ge=0
    )
    decay_shape: Literal["linear", "sqrt"] = plan(
        "linear", "wsd: the final decay; sqrt: 1 - sqrt of the way (Haegele et al. 2024)"
    )
    final: float = plan(
        0.1, "share of the peak that is left at the last step (inverse_sqrt: the least)", ge=0, le=1
    )

    @field_validator("warmup_steps", "decay_steps")
    @classmethod
    def _whole_or_share(cls, value: float | None) -> float | None:
        if value is not None and value >= 1 and value != int(value):
            raise ValueError("a number of steps is whole; below 1 it is a share of all")
        return value

    def warmup(self, steps: int) -> int:
        """Steps of the warm-up in a run of `steps`."""
        return min(100, steps // 10) if self.warmup_steps is None else _count(self.warmup_steps, steps)

    def decay(self, steps: int) -> int:
        """Steps of wsd's final decay in a run of `steps`."""
        return steps // 5 if self.decay_steps is None else _count(self.decay_steps, steps)

    def problem(self, steps: int) -> str | None:
        """Why a run of `steps` cannot have this schedule; None: it can."""
        warm, decay = self.warmup(steps), self.decay(steps)
        if warm >= steps > 1:
            return f"schedule.warmup_steps ({warm}) ends after the run (steps {steps}): no peak"
        if self.kind != "wsd" and self.decay_steps is not None:
            return f"schedule.decay_steps is for wsd, schedule.kind is {self.kind}"
        if self.kind == "wsd" and warm + decay > steps:
            return f"schedule.warmup_steps ({warm}) and decay_steps ({decay}) are more than steps ({steps})"
        return None


def _count(value: float, steps: int) -> int:
    return int(value) if value >= 1 else int(value * steps)


class ValidationSettings(Settings):
    """Loss on the val split while training."""

    every: int = free(
        200, "steps between validations; 0: only before the first step and after the last", ge=0
    )
    max_samples: int | None = free(
        None, "samples of a validation on the way (default: all); the last one always takes all", ge=1
    )
    batch: int = free(16, "samples that one worker evaluates at once", ge=1)
    where: Literal["trainer", "workers"] = free(
        "trainer", "trainer: the training stops for it; workers: it goes on, and another Ray worker takes "
        "the checkpoint just written (`every` must then be a multiple of checkpoint.every)"
    )  # fmt: skip
    cpus: int = free(
        1, "where: workers: CPUs of that worker, beside those that train (it has a GPU, too, where the "
        "training has some and one is free)", ge=1
    )  # fmt: skip


class SampleSettings(Settings):
    """Text that the model writes while it trains."""

    every: int = free(0, "steps between samples; 0: at the end alone", ge=0)
    prompts: tuple[str, ...] = free((), "what each sample begins with")
    tokens: int = free(80, "tokens that each sample goes on", ge=1)


class GuardSettings(Settings):
    """What becomes of a step that would harm the weights. One that is not finite is always skipped."""

    max_skips: int = free(10, "skipped steps in a row that end the run", ge=1)
    spike_sigma: float | None = plan(
        None, "a step whose loss or gradient norm is so many standard deviations above the mean of those "
        "before it is a spike (OLMo-core: 6; default: spikes are not looked for)", gt=0
    )  # fmt: skip
    window: int = plan(128, "applied steps that this mean is of; half of them must be there", ge=4)
    on_spike: Literal["skip", "rewind"] = plan(
        "skip", "skip: the step changes no weight; rewind: back to the last checkpoint, and on without the "
        "batches around the spike (PaLM, section 5.1)"
    )  # fmt: skip
    rewind_steps: int = plan(10, "rewind: steps before the spike whose batches are left out, too", ge=0)
    max_rewinds: int = free(3, "rewind: how often, before the next spike ends the run", ge=1)


class CheckpointSettings(Settings):
    """When the run can be continued from, and how many of these points are kept."""

    every: int = free(200, "steps between checkpoints (one is always made at the end)", ge=1)
    keep: int = free(3, "newest checkpoints that are kept", ge=1)
    keep_every: int | None = free(None, "those at multiples of this step are kept for good", ge=1)
    keep_best: int = free(0, "so many with the lowest validation loss are kept, too", ge=0)


class WandbSettings(Settings):
    """Weights & Biases. Where no key is found, the run is kept on disk and can be synced later."""

    mode: Literal["auto", "online", "offline", "disabled"] = free(
        "auto", "auto: online where there is an API key, else offline"
    )
    project: str = free("manta", "project that the run appears in")
    group: str | None = free(None, "group of the run; a sweep's trials have their sweep's")
    job_type: str | None = free(None, "kind of the run; a sweep's trials are of the kind trial")
    run_id: str | None = free(
        None, "id of a new run (default: its folder's name and a random end); a sweep names its trials"
    )
    patience_seconds: float = free(
        20.0,
        "most seconds that W&B may take to open the run, before it is kept on disk instead, and to take what "
        "is left after the last step; no step waits for it",
        gt=0,
    )


class MaskingSettings(Settings):
    """Which tokens a BERT must guess (Devlin et al. 2019, section 3.1)."""

    share: float = plan(0.15, "share of the tokens that are guessed", gt=0, lt=1)
    mask: float = plan(0.8, "share of those that are shown as [MASK]", ge=0, le=1)
    random: float = plan(
        0.1, "share of those that are shown as a random token; the rest is shown as it is", ge=0, le=1
    )
    whole_word: bool = plan(False, "all tokens of a word together")

    @model_validator(mode="after")
    def _shares_add_up(self) -> MaskingSettings:
        if self.mask + self.random > 1 + 1e-9:
            raise ValueError(f"mask ({self.mask}) and random ({self.random}) are more than 1 together")
        return self


class OffloadSettings(Settings):
    """What DeepSpeed keeps in the host's memory instead of the GPU's: slower, and room for larger models."""

    optimizer: Literal["none", "cpu"] = free("none", "ZeRO 1 to 3: optimizer states, and their update")
    parameters: Literal["none", "cpu"] = free("none", "ZeRO 3: weights, while they are not used")

    @field_validator("optimizer", "parameters", mode="before")
    @classmethod
    def _no_disk(cls, value: Any) -> Any:
        if value == "nvme":
            raise ValueError(
                "nvme is not supported: DeepSpeed's swapping needs its async_io operator (libaio), and keeps "
                "parts of the state where a checkpoint does not see them. Use cpu, or more workers"
            )
        return value


class Workers(BaseModel):
    """How many workers train: as many, or as many as the cluster has room for within bounds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min: int = Field(1, ge=1)
    max: int = Field(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | dict | Workers):
            raise ValueError("must be a number of workers, or {min: 1, max: 8}")
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1 worker")
        return {"min": value, "max": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _in_order(self) -> Workers:
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self

    @model_serializer
    def _as_given(self) -> Any:
        return self.min if self.min == self.max else {"min": self.min, "max": self.max}

    def __str__(self) -> str:
        return str(self.min) if self.min == self.max else f"{self.min} to {self.max}"

    @property
    def elastic(self) -> bool:
        """Whether the number may change while the run is on."""
        return self.min < self.max


def ramp_problem(ramp: Sequence[tuple[int, int]], batch: int, workers: int) -> str | None:
    """Why batches cannot grow so; None: they can. `ramp`: pairs (until this step, samples)."""
    ends = [0, *(until for until, _ in ramp)]
    if any(later <= before for before, later in pairwise(ends)):
        return f"batch_ramp: steps must rise from above 0, they are {ends[1:]}"
    sizes = [size for _, size in ramp]
    if any(later < before for before, later in pairwise([*sizes, batch])):
        return f"batch_ramp: batches must not shrink, they are {sizes} and then batch {batch}"
    if sizes and sizes[0] < workers:
        return (
            f"batch_ramp: begins with {sizes[0]} samples for {workers} workers: some would have nothing to do"
        )
    return None
