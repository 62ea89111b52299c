"""The `model` and `pretrain` sections of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cluster.fields import Settings, free, identity, plan


class ModelSettings(Settings):
    """The shape of a transformer. The vocabulary comes from the corpus' tokenizer."""

    kind: Literal["gpt"] = identity("gpt", "what the model is trained to do")
    layers: int = identity(4, "transformer blocks", ge=1)
    width: int = identity(128, "size of the residual stream", ge=1)
    heads: int = identity(4, "attention heads; must divide the width", ge=1)
    hidden: int | None = identity(None, "inner size of the feed-forward part (default: 4 x width)", ge=1)
    context: int = identity(256, "longest sequence in tokens that the model can see", ge=2)
    position: Literal["rotary", "learned"] = identity("rotary", "how a position enters the model")
    norm: Literal["rmsnorm", "layernorm"] = identity("rmsnorm", "normalisation before each part")
    activation: Literal["gelu", "relu2", "swiglu"] = identity("gelu", "activation of the feed-forward part")
    tied: bool = identity(True, "the output layer shares the token embedding's weights")
    dropout: float = identity(0.0, "share of activations dropped in training", ge=0, lt=1)
    init_std: float = identity(0.02, "standard deviation of the initial weights", gt=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelSettings:
        if self.width % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide width ({self.width})")
        if self.position == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(
                f"rotary positions need an even head size, width/heads is {self.width // self.heads}"
            )
        return self


class OptimizerSettings(Settings):
    """AdamW (Loshchilov and Hutter 2019). Weight decay applies to matrices alone."""

    kind: Literal["adamw"] = identity("adamw", "the optimizer")
    lr: float = plan(1e-3, "peak learning rate", gt=0)
    beta1: float = plan(0.9, "decay of the gradient's mean", ge=0, lt=1)
    beta2: float = plan(0.95, "decay of the gradient's square", ge=0, lt=1)
    eps: float = plan(1e-8, "added to the root of the square", gt=0)
    weight_decay: float = plan(0.1, "decoupled decay of matrices, times the learning rate", ge=0)
    clip: float = plan(1.0, "largest norm of the whole gradient; 0: no clipping", ge=0)


class ScheduleSettings(Settings):
    """Learning rate as a share of its peak, a pure function of the step."""

    kind: Literal["constant", "linear", "cosine", "wsd"] = plan(
        "cosine", "shape of the decay after the warm-up"
    )
    warmup_steps: int = plan(100, "steps of linear warm-up from zero", ge=0)
    decay_steps: int | None = plan(None, "wsd: steps of the final decay (default: a fifth of all)", ge=0)
    final: float = plan(0.1, "share of the peak that is left at the last step", ge=0, le=1)


class ValidationSettings(Settings):
    """Loss on the val split while training."""

    every: int = free(
        200, "steps between validations; 0: only before the first step and after the last", ge=0
    )
    max_samples: int | None = free(
        None, "samples of a validation on the way (default: all); the last one always takes all", ge=1
    )
    batch: int = free(16, "samples that one worker evaluates at once", ge=1)


class SampleSettings(Settings):
    """Text that the model writes while it trains."""

    every: int = free(0, "steps between samples; 0: none", ge=0)
    prompts: tuple[str, ...] = free((), "what each sample begins with")
    tokens: int = free(80, "tokens that each sample goes on", ge=1)


class CheckpointSettings(Settings):
    """When the run can be continued from, and how many of these points are kept."""

    every: int = free(200, "steps between checkpoints (one is always made at the end)", ge=1)
    keep: int = free(3, "newest checkpoints that are kept", ge=1)


class WandbSettings(Settings):
    """Weights & Biases. Where no key is found, the run is kept on disk and can be synced later."""

    mode: Literal["auto", "online", "offline", "disabled"] = free(
        "auto", "auto: online where there is an API key, else offline"
    )
    project: str = free("manta", "project that the run appears in")


class PretrainSettings(Settings):
    """A corpus to a model."""

    corpus: str | None = free(None, "corpus folder (default: the recipe's own)")
    out: str | None = free(None, "run folder (default: runs/<recipe>/pretrain)")
    seed: int = identity(0, "the one seed of initialisation, order and dropout", ge=0)

    steps: int = plan(1000, "optimizer steps", ge=1)
    batch: int = plan(32, "samples of a step, over all workers", ge=1)
    length: int = plan(256, "tokens of a sample", ge=2)
    weights: dict[str, float] | None = plan(
        None, "share of each source in the samples (default: the sources' own weights)"
    )
    lanes: int = plan(16384, "sequential readers of a source above 16 GiB; at least 16 x batch", ge=1)
    precision: Literal["fp32", "bf16"] = plan(
        "fp32", "bf16: matrix products in bfloat16 (autocast), weights and their updates in fp32"
    )
    optimizer: OptimizerSettings = plan(OptimizerSettings(), "the optimizer")
    schedule: ScheduleSettings = plan(ScheduleSettings(), "the learning rate over time")

    workers: int = free(1, "processes that train, each with one device", ge=1)
    engine: Literal["deepspeed", "plain"] = free(
        "deepspeed", "deepspeed: ZeRO; plain: PyTorch alone, every worker holds everything"
    )
    zero_stage: Literal[0, 1, 2, 3] = free(
        1, "DeepSpeed ZeRO: 0 splits nothing, 1 optimizer states, 2 also gradients, 3 also weights"
    )
    micro_batch: int = free(32, "most samples of one forward on one worker", ge=1)
    device: Literal["auto", "cpu", "cuda"] = free("auto", "what each worker computes on")
    cpus_per_worker: int | None = free(
        None, "CPU threads of each worker (default: the machine's CPUs over its workers)", ge=1
    )
    launch: Literal["ray", "here"] = free(
        "ray", "ray: Ray Train starts the workers; here: one worker in this process, without Ray"
    )
    max_failures: int = free(3, "times that a lost worker restarts the group before the run ends", ge=0)
    verify: Literal["start", "read"] | None = free(
        None, "when the corpus' digests are checked (default: at the start up to 2 GiB, else at first read)"
    )
    log_every: int = free(1, "steps between lines of metrics.jsonl", ge=1)

    validation: ValidationSettings = free(ValidationSettings(), "loss on held-out text")
    samples: SampleSettings = free(SampleSettings(), "text written while training")
    checkpoint: CheckpointSettings = free(CheckpointSettings(), "points to continue from")
    wandb: WandbSettings = free(WandbSettings(), "tracking")

    @model_validator(mode="after")
    def _batch_feeds_workers(self) -> PretrainSettings:
        if self.batch < self.workers:
            raise ValueError(
                f"batch ({self.batch}) is smaller than workers ({self.workers}): some would have nothing to "
                "do; raise pretrain.batch or lower pretrain.workers"
            )
        if self.launch == "here" and self.workers != 1:
            raise ValueError(f"launch 'here' runs one worker, workers is {self.workers}")
        return self


SECTIONS = {"model": ModelSettings, "pretrain": PretrainSettings}
