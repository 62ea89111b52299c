"""The `model` and `pretrain` sections of a recipe."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from cluster.fields import Settings, free, identity, plan
from llm.presets import fill_in, shape_problems


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
    precision: Literal["fp32", "bf16"] = plan(
        "fp32", "bf16: matrix products in bfloat16 (autocast), weights and their updates in fp32"
    )
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
    micro_batch: int = free(32, "most samples of one forward on one worker", ge=1)
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
        if self.launch == "here" and self.workers.min != 1:
            raise ValueError(f"launch 'here' runs one worker, workers is {self.workers}")
        return self


SECTIONS = {"model": ModelSettings, "pretrain": PretrainSettings}
