"""The `model` and `pretrain` sections of a recipe, and what the others are made of."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from cluster.fields import Settings, free, identity, plan
from llm.finetune_settings import FinetuneSettings
from llm.presets import fill_in, shape_problems
from llm.run_settings import RunSettings
from llm.sweep_settings import SweepSettings
from llm.training_settings import MaskingSettings


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


class PretrainSettings(RunSettings):
    """A corpus to a model."""

    section: ClassVar[str] = "pretrain"

    corpus: str | None = free(None, "corpus folder, or s3://bucket/name (default: the recipe's own)")
    out: str | None = free(None, "run folder, or s3://bucket/name (default: runs/<recipe>/pretrain)")
    start_from: str | None = identity(
        None,
        "a run or an imported model, a path or s3://bucket/name, whose weights are the first (default: fresh "
        "weights)",
    )
    weights: dict[str, float] | None = plan(
        None, "share of each source in the samples (default: the sources' own weights)"
    )
    packing: Literal["stream", "bestfit"] = plan(
        "stream", "gpt: stream: rows are cut from one stream of tokens; bestfit: whole documents are put "
        "together so that the fewest are cut, and rows are padded. (A bert has pairs of sentences)"
    )  # fmt: skip
    confine: bool = plan(False, "gpt: attention and positions stay inside each document of a row")
    masking: MaskingSettings = plan(MaskingSettings(), "bert: which tokens are guessed")
    z_loss: float = plan(
        0.0, "weight of the squared log of the softmax's sum (PaLM, section 5), 0: off", ge=0
    )
    lanes: int = plan(16384, "sequential readers of a source above 16 GiB; at least 16 x batch", ge=1)
    verify: Literal["start", "read"] | None = free(
        None, "when the corpus' digests are checked (default: at the start up to 2 GiB, else at first read)"
    )


RUNS: dict[str, type[RunSettings]] = {"pretrain": PretrainSettings, "finetune": FinetuneSettings}
"""The sections that a run folder is made by."""

SECTIONS: dict[str, type[Settings]] = {
    "model": ModelSettings,
    "pretrain": PretrainSettings,
    "finetune": FinetuneSettings,
    "sweep": SweepSettings,
}
