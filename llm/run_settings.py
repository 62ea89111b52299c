"""What every training sets, whatever it trains: the base of the `pretrain` and `finetune` sections."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from cluster.fields import Settings, free, identity, plan
from llm.deepspeed_config import check_overrides
from llm.training_settings import (
    CheckpointSettings,
    GuardSettings,
    LossScaleSettings,
    OffloadSettings,
    OptimizerSettings,
    SampleSettings,
    ScheduleSettings,
    ValidationSettings,
    WandbSettings,
    Workers,
    ramp_problem,
)


class RunSettings(Settings):
    """Steps, batches, precision, optimizer, workers, engine, guard, checkpoints, tracking."""

    section: ClassVar[str]
    """The recipe's section, for messages: `pretrain` or `finetune`."""

    seed: int = identity(0, "the one seed of initialisation, order, masks and dropout", ge=0)
    steps: int = plan(1000, "optimizer steps", ge=1)
    batch: int = plan(32, "samples of a step, over all workers", ge=1)
    batch_ramp: tuple[tuple[int, int], ...] = plan(
        (),
        "smaller batches at first: pairs [step, samples], so many samples a step until that one, then batch",
    )
    length: int = plan(256, "tokens of a sample", ge=2)
    skip_samples: tuple[tuple[int, int], ...] = plan(
        (),
        "ranges [first, end) of sample numbers to leave out; a new one must lie ahead of the checkpoint",
    )
    precision: Literal["fp32", "bf16", "fp16"] = plan(
        "fp32", "bf16, fp16: matrix products in 16 bits (autocast); weights, gradients and what is added up "
        "are fp32; fp16: on GPUs, with a loss scale"
    )  # fmt: skip
    loss_scale: LossScaleSettings = plan(LossScaleSettings(), "fp16: by what the loss is multiplied")
    optimizer: OptimizerSettings = plan(OptimizerSettings(), "the optimizer")
    schedule: ScheduleSettings = plan(ScheduleSettings(), "the learning rate over time")
    workers: Workers = free(
        Workers(min=1, max=1), "processes that train, each with one device: a number, or {min: 1, max: 8} to "
        "go on with fewer when a node is lost and with more when one comes; samples and schedule stay"
    )  # fmt: skip
    engine: Literal["deepspeed", "plain"] = free(
        "deepspeed", "deepspeed: ZeRO; plain: PyTorch alone, every worker holds everything"
    )
    zero_stage: Literal[0, 1, 2, 3] = free(
        1, "DeepSpeed ZeRO: 0 splits nothing, 1 optimizer states, 2 also gradients, 3 also weights"
    )
    offload: OffloadSettings = free(OffloadSettings(), "what is kept in the host's memory")
    deepspeed: dict[str, Any] = free(
        {}, "for experts: keys of DeepSpeed's own dict that replace ours (deepspeed.json has all); one that "
        "it would ignore is refused"
    )  # fmt: skip
    micro_batch: int = free(32, "most samples of one forward on one worker", ge=1)
    activation_checkpointing: bool = free(
        False, "keep each block's input alone and compute the rest again for its gradient (Chen et al. "
        "2016): less memory, about a third more work"
    )  # fmt: skip
    compile: Literal["none", "blocks", "whole"] = free(
        "none", "torch.compile of training: each block, or the whole model; the first steps take minutes"
    )
    device: Literal["auto", "cpu", "cuda"] = free("auto", "what each worker computes on")
    cpus_per_worker: int | None = free(
        None, "CPU threads of each worker (default: the machine's CPUs over its workers)", ge=1
    )
    launch: Literal["ray", "here"] = free(
        "ray", "ray: Ray Train starts the workers; here: one worker in this process, without Ray"
    )
    max_failures: int = free(
        3, "times in a row, without a new checkpoint between, that a lost worker restarts the group", ge=0
    )
    hang_seconds: int = free(
        600,
        "seconds without a finished step or batch of validation after which the group is restarted; more "
        "than writing a checkpoint takes",
        ge=5,
    )
    deterministic: bool = free(
        True, "equal runs are equal to the bit; false lets GPUs take faster kernels that add up in another "
        "order each time"
    )  # fmt: skip
    log_every: int = free(1, "steps between lines of metrics.jsonl", ge=1)
    peak_tflops: float | None = free(
        None, "dense TFLOP/s of one worker's device, by which mfu is measured (default: the published peak "
        "of a GPU that is known)", gt=0
    )  # fmt: skip
    guard: GuardSettings = plan(GuardSettings(), "steps that would harm the weights")
    selfcheck: bool = free(
        True, "compare the engine's gradients with plain autograd before the first step of each start"
    )
    validation: ValidationSettings = free(ValidationSettings(), "loss on held-out text")
    samples: SampleSettings = free(SampleSettings(), "text written while training")
    checkpoint: CheckpointSettings = free(CheckpointSettings(), "points to continue from")
    wandb: WandbSettings = free(WandbSettings(), "tracking")

    @model_validator(mode="after")
    def _fields_agree(self) -> RunSettings:
        if self.batch < self.workers.max:
            raise ValueError(
                f"batch ({self.batch}) is smaller than workers ({self.workers.max}): some would have nothing "
                f"to do; raise {self.section}.batch or lower {self.section}.workers"
            )
        for first, end in self.skip_samples:
            if not 0 <= first < end:
                raise ValueError(f"skip_samples: range [{first}, {end}) is empty or negative")
        if problem := ramp_problem(self.batch_ramp, self.batch, self.workers.max):
            raise ValueError(problem)
        if self.knows_steps:
            self._check_steps()
        self._engine_can()
        least = {"optimizer": 1, "parameters": 3}
        for name, stage in least.items():
            if getattr(self.offload, name) != "none" and (
                self.engine != "deepspeed" or self.zero_stage < stage
            ):
                raise ValueError(
                    f"offload.{name} needs engine deepspeed with zero_stage {stage} or more, engine is "
                    f"{self.engine} and zero_stage {self.zero_stage}"
                )
        if self.validation.where == "workers":
            if self.launch == "here":
                raise ValueError(
                    "validation.where 'workers' needs Ray, and launch is 'here': set launch to ray, or "
                    "validation.where to trainer"
                )
            if self.validation.every % self.checkpoint.every:
                raise ValueError(
                    "validation.where 'workers' takes the checkpoint just written: validation.every "
                    f"({self.validation.every}) must be a multiple of checkpoint.every "
                    f"({self.checkpoint.every})"
                )
        if self.launch == "here" and self.workers.min != 1:
            raise ValueError(f"launch 'here' runs one worker, workers is {self.workers}")
        return self

    @property
    def knows_steps(self) -> bool:
        """Whether `steps` is final: not where it follows from epochs, before the examples were counted."""
        return True

    def _check_steps(self) -> None:
        """ValueError where something is to happen at a step that never comes."""
        if problem := self.schedule.problem(self.steps):
            raise ValueError(problem)
        meet = math.lcm(self.checkpoint.every, self.validation.every)
        if self.section == "pretrain" and self.checkpoint.keep_best and not 0 < meet < self.steps:
            raise ValueError(
                "checkpoint.keep_best compares checkpoints that were validated at their own step: "
                f"checkpoint.every ({self.checkpoint.every}) and validation.every ({self.validation.every}) "
                f"have none in common before step {self.steps}"
            )

    def _engine_can(self) -> None:
        """ValueError where the engine would refuse late, ignore a field, or compute another thing."""
        if self.precision == "fp16" and self.device == "cpu":
            raise ValueError(
                "precision fp16 is for GPUs, device is cpu: CPUs have no fast fp16, and bf16 needs no scale"
            )
        if self.precision != "fp16" and self.loss_scale != LossScaleSettings():
            raise ValueError(f"loss_scale is for precision fp16, precision is {self.precision}")
        if self.compile != "none" and self.engine == "deepspeed" and self.zero_stage == 3:
            raise ValueError(
                "compile with zero_stage 3: its hooks bring weights inside the forward and break the graphs "
                "(github.com/pytorch/pytorch/issues/115484); use zero_stage 1 or 2, or compile none"
            )
        if self.deepspeed:
            if self.engine != "deepspeed":
                raise ValueError(f"deepspeed: engine is {self.engine}, nothing would read these keys")
            if problems := check_overrides(self.deepspeed, self.zero_stage):
                raise ValueError("deepspeed." + "; deepspeed.".join(problems))
