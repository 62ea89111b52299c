"""The `model` and `pretrain` sections of a recipe."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import model_validator

from cluster.fields import Settings, free, identity, plan
from llm.deepspeed_config import check_overrides
from llm.presets import fill_in, shape_problems
from llm.training_settings import (
    CheckpointSettings,
    GuardSettings,
    LossScaleSettings,
    MaskingSettings,
    OffloadSettings,
    OptimizerSettings,
    SampleSettings,
    ScheduleSettings,
    ValidationSettings,
    WandbSettings,
    Workers,
    ramp_problem,
)


class RotarySettings(Settings):
    """Rotary positions: the angles' base, and how a model is stretched over more than it was trained on."""

    base: float = identity(10_000.0, "base of the angles (theta)", gt=1)
    scaling: Literal["none", "linear", "llama3", "yarn"] = identity(
        "none", "linear: positions / factor; llama3, yarn: slow angles alone (Llama 3.1; Peng et al. 2023)"
    )
    factor: float = identity(1.0, "how many times the original context", ge=1)
    original_context: int = identity(8192, "llama3, yarn: context before it was stretched", ge=1)
    low_factor: float = identity(
        1.0, "llama3: slower than so many turns in the original context is scaled", gt=0
    )
    high_factor: float = identity(4.0, "llama3: faster than so many turns stays as it is", gt=0)
    fast_turns: float = identity(32.0, "yarn: more turns than these stay as they are", gt=0)
    slow_turns: float = identity(1.0, "yarn: fewer turns than these are scaled in full", gt=0)


Activation = Literal[
    "sigmoid", "tanh", "relu", "leaky_relu", "relu2", "gelu", "gelu_tanh", "silu", "swiglu", "geglu"
]
GATED = ("swiglu", "geglu")


class ModelSettings(Settings):
    """The shape of a transformer. The vocabulary comes from the corpus' tokenizer.

    Where a field is not given, `preset` decides, then `depth`, then `kind`, then the default.
    """

    preset: str | None = free(
        None, "a known shape, such as gpt2-124m, llama-1b, bert-base; its fields can be overridden"
    )
    depth: int | None = free(
        None, "one dial for a new model: so many layers, width 64 x depth, one head for each 64", ge=1
    )
    kind: Literal["gpt", "bert"] = identity(
        "gpt", "gpt: the next token, causal; bert: masked tokens, seen from both sides (with the original's "
        "learned positions, LayerNorm after each part, GELU and biases, where those are not given)"
    )  # fmt: skip
    layers: int = identity(4, "transformer blocks", ge=1)
    width: int = identity(128, "size of the residual stream", ge=1)
    heads: int = identity(4, "attention heads; must divide the width", ge=1)
    kv_heads: int | None = identity(
        None, "key/value heads, shared by groups of heads (default: as many as heads; 1: multi-query)", ge=1
    )
    head_size: int | None = identity(None, "size of a head (default: width / heads)", ge=1)
    hidden: int | None = identity(None, "inner size of the feed-forward part (default: 4 x width)", ge=1)
    context: int = identity(256, "longest sequence in tokens that the model can see", ge=2)
    position: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = identity(
        "rotary", "how a position enters the model"
    )
    rotary: RotarySettings = identity(RotarySettings(), "rotary positions")
    norm: Literal["rmsnorm", "layernorm"] = identity("rmsnorm", "normalisation of each part")
    norm_at: Literal["pre", "post"] = identity(
        "pre", "pre: before each part; post: after its sum with the stream"
    )
    norm_eps: float | None = identity(
        None, "added to the variance (default: 1e-6 for rmsnorm, 1e-5 for layernorm)", gt=0
    )
    activation: Activation = identity(
        "gelu", "activation of the feed-forward part; swiglu and geglu have a gate"
    )
    qk_norm: bool = identity(False, "RMSNorm of each head's queries and keys")
    biases: Literal["none", "qkv", "attention", "feed_forward", "all"] = identity(
        "none", "which linear maps have a bias; all: LayerNorm, too"
    )
    tied: bool = identity(True, "the output layer shares the token embedding's weights")
    dropout: float = identity(0.0, "share of activations dropped in training", ge=0, lt=1)
    softcap: float | None = identity(None, "logits become softcap * tanh(logits / softcap)", gt=0)
    window: int | None = identity(None, "sliding window: a token sees so many tokens, itself included", ge=1)
    global_every: int | None = identity(
        None, "of the layers with a window each such one, from the first on, sees everything", ge=1
    )
    next_sentence: bool = identity(True, "bert: also tell whether the second part follows the first")
    init: Literal[
        "scaled", "normal", "xavier_uniform", "xavier_normal", "he_uniform", "he_normal"
    ] = identity(
        "scaled", "initial matrices; scaled: normal, with those that write to the stream / sqrt(2 layers). "
        "Embeddings are always normal"
    )  # fmt: skip
    init_std: float = identity(0.02, "standard deviation of normal initial weights", gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        return fill_in(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _shapes_agree(self) -> ModelSettings:
        problems = shape_problems(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def head_width(self) -> int:
        """K, the size of a head."""
        return self.head_size or self.width // self.heads

    @property
    def groups(self) -> int:
        """Key/value heads."""
        return self.kv_heads or self.heads

    @property
    def inner(self) -> int:
        """F, the inner size of the feed-forward part."""
        return self.hidden or 4 * self.width

    @property
    def causal(self) -> bool:
        return self.kind == "gpt"

    def has_bias(self, part: Literal["qkv", "attention", "feed_forward", "norm", "head"]) -> bool:
        """Whether the maps of a part have one; attention: the output map."""
        return self.biases == "all" or self.biases == part or (part == "qkv" and self.biases == "attention")

    def is_global(self, layer: int) -> bool:
        """Whether a layer sees everything, window or not."""
        return self.window is None or (self.global_every is not None and layer % self.global_every == 0)


class PretrainSettings(Settings):
    """A corpus to a model."""

    corpus: str | None = free(None, "corpus folder, or s3://bucket/name (default: the recipe's own)")
    out: str | None = free(None, "run folder, or s3://bucket/name (default: runs/<recipe>/pretrain)")
    seed: int = identity(0, "the one seed of initialisation, order, masks and dropout", ge=0)
    start_from: str | None = identity(
        None,
        "a run or an imported model, a path or s3://bucket/name, whose weights are the first (default: fresh "
        "weights)",
    )

    steps: int = plan(1000, "optimizer steps", ge=1)
    batch: int = plan(32, "samples of a step, over all workers", ge=1)
    batch_ramp: tuple[tuple[int, int], ...] = plan(
        (),
        "smaller batches at first: pairs [step, samples], so many samples a step until that one, then batch",
    )
    length: int = plan(256, "tokens of a sample", ge=2)
    weights: dict[str, float] | None = plan(
        None, "share of each source in the samples (default: the sources' own weights)"
    )
    packing: Literal["stream", "bestfit"] = plan(
        "stream", "gpt: stream: rows are cut from one stream of tokens; bestfit: whole documents are put "
        "together so that the fewest are cut, and rows are padded. (A bert has pairs of sentences)"
    )  # fmt: skip
    confine: bool = plan(False, "gpt: attention and positions stay inside each document of a row")
    masking: MaskingSettings = plan(MaskingSettings(), "bert: which tokens are guessed")
    skip_samples: tuple[tuple[int, int], ...] = plan(
        (),
        "ranges [first, end) of sample numbers to leave out; a new one must lie ahead of the checkpoint",
    )
    z_loss: float = plan(
        0.0, "weight of the squared log of the softmax's sum (PaLM, section 5), 0: off", ge=0
    )
    lanes: int = plan(16384, "sequential readers of a source above 16 GiB; at least 16 x batch", ge=1)
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
    verify: Literal["start", "read"] | None = free(
        None, "when the corpus' digests are checked (default: at the start up to 2 GiB, else at first read)"
    )
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
    def _fields_agree(self) -> PretrainSettings:
        if self.batch < self.workers.max:
            raise ValueError(
                f"batch ({self.batch}) is smaller than workers ({self.workers.max}): some would have nothing "
                "to do; raise pretrain.batch or lower pretrain.workers"
            )
        for first, end in self.skip_samples:
            if not 0 <= first < end:
                raise ValueError(f"skip_samples: range [{first}, {end}) is empty or negative")
        if problem := ramp_problem(self.batch_ramp, self.batch, self.workers.max):
            raise ValueError(problem)
        if problem := self.schedule.problem(self.steps):
            raise ValueError(problem)
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
        meet = math.lcm(self.checkpoint.every, self.validation.every)
        if self.checkpoint.keep_best and not 0 < meet < self.steps:
            raise ValueError(
                "checkpoint.keep_best compares checkpoints that were validated at their own step: "
                f"checkpoint.every ({self.checkpoint.every}) and validation.every ({self.validation.every}) "
                f"have none in common before step {self.steps}"
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


SECTIONS = {"model": ModelSettings, "pretrain": PretrainSettings}
