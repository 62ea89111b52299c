"""The `finetune` section of a recipe: a model and a task to a fine-tuned model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator, model_validator

from cluster.fields import Settings, free, identity, plan
from llm.run_settings import RunSettings
from llm.training_settings import CheckpointSettings, OptimizerSettings, ScheduleSettings, ValidationSettings

TaskKind = Literal[
    "classification", "multi_label", "regression", "token_classification", "question_answering", "instruction"
]
SEQUENCE_KINDS = ("classification", "multi_label", "regression")
LORA_TARGETS = ("q", "k", "v", "o", "up", "gate", "down")


class DataSettings(Settings):
    """Examples of the task: files of JSON lines, CSV or Parquet, each record an example."""

    train: str | None = free(
        None, "file or glob of the examples that are trained on; .jsonl (also .gz, .zst, .xz), .csv, .parquet"
    )
    val: str | None = free(None, "the same of validation (default: cut from train by val_fraction)")
    test: str | None = free(None, "the same of the test part (default: cut from train by test_fraction)")
    val_fraction: float = identity(
        0.1, "share of train that becomes validation where no val is given; classes keep their shares",
        ge=0, lt=1,
    )  # fmt: skip
    test_fraction: float = identity(0.1, "share of train that becomes the test part", ge=0, lt=1)
    split_seed: int = identity(
        0, "seed of what is cut from train, apart from `seed`: runs of other seeds are measured on the same "
        "examples", ge=0,
    )  # fmt: skip
    group: str | None = identity(
        None,
        "field whose equal values stay in one part when train is cut, so that nothing leaks between them",
    )
    text: str = identity("text", "field of the text; question_answering: of the context")
    second: str | None = identity(
        None, "field of the second text of a pair; question_answering: of the question (default there: "
        "question)"
    )  # fmt: skip
    label: str = identity(
        "label", "field of the label: a class; a list of classes; a number; one tag for each word; "
        "question_answering: the answers, {text: [...], answer_start: [...]} (default there: answers)"
    )  # fmt: skip
    words: str = identity("words", "token_classification: field of the list of words")
    prompt: str = identity("prompt", "instruction: field of what is asked")
    answer: str = identity("answer", "instruction: field of what is to be answered")
    messages: str | None = identity(
        None, "instruction: field of a whole conversation, a list of {role, content}, instead of the two"
    )
    max_bad_fraction: float = free(
        0.0,
        "share of records with an error that may be left out, counted; above it nothing starts",
        ge=0,
        lt=1,
    )


class TaskSettings(Settings):
    """What is learned, and how an example becomes a row."""

    kind: TaskKind = identity(
        "classification", "classification: one class; multi_label: any number of classes; regression: a "
        "number; token_classification: a tag for each word; question_answering: the place of the answer in a "
        "context; instruction: gpt: the answer to a prompt"
    )  # fmt: skip
    labels: tuple[str, ...] = identity(
        (), "the classes in their order (default: those of the training part, sorted)"
    )
    loss: Literal["cross_entropy", "hinge"] = identity(
        "cross_entropy", "classification, multi_label: cross-entropy, or hinge (Crammer and Singer 2001)"
    )
    class_weights: Literal["none", "balanced"] = identity(
        "none", "balanced: each class counts alike, by examples / (classes x examples of it)"
    )
    too_long: Literal["truncate", "window", "fail"] = identity(
        "truncate", "a text longer than `length`: cut at its end; read in windows that overlap, whose "
        "predictions are joined; or refused"
    )  # fmt: skip
    stride: int = identity(64, "window: tokens that neighbouring windows share", ge=0)
    chat_template: str | None = identity(
        None, "instruction: Jinja template over `messages` and `add_generation_prompt`, as of Hugging Face "
        "(default: 'User: ...' and 'Assistant: ...' on lines of their own)"
    )  # fmt: skip
    packing: bool = identity(True, "instruction: several examples in a row, each seeing itself alone")
    dropout: float = identity(0.1, "share of the head's input that is dropped in training", ge=0, lt=1)


class LoraSettings(Settings):
    """Low-rank adapters (Hu et al. 2022): W x + (alpha / rank) B A x, with W as it was."""

    rank: int = identity(0, "rank of each adapter; 0: none", ge=0)
    alpha: float = identity(16.0, "the adapters' scale is alpha / rank", gt=0)
    targets: tuple[Literal["q", "k", "v", "o", "up", "gate", "down"], ...] = identity(
        ("q", "v"), "linear maps of each block that get one: q, k, v, o of the attention; up, gate, down of "
        "the feed-forward part"
    )  # fmt: skip


class EarlyStopSettings(Settings):
    """The end before the last step, where validation does not get better any more."""

    patience: int | None = plan(
        None, "validations in a row without a better `best_by` after which the training ends (default: none)",
        ge=1,
    )  # fmt: skip
    least: float = plan(0.0, "by how much it must get better to count", ge=0)


class FinetuneSettings(RunSettings):
    """A model and a task to a fine-tuned model."""

    section: ClassVar[str] = "finetune"

    out: str | None = free(None, "run folder, or s3://bucket/name (default: runs/<recipe>/finetune)")
    start_from: str | None = identity(
        None,
        "a run, one of its checkpoints or an imported model (default: the recipe's own pretrain.out)",
    )
    from_scratch: bool = identity(
        False, "take the start's shape and tokenizer and fresh weights: what pretraining is compared with"
    )
    examples: str | None = free(
        None, "folder for the examples as rows of tokens, kept for other runs (default: examples beside out)"
    )
    data: DataSettings = identity(DataSettings(), "the examples")
    task: TaskSettings = identity(TaskSettings(), "the task")
    train_only: Literal["all", "head", "last"] = identity(
        "all", "which weights change: all; the task's head alone; head and the last `last_layers` blocks"
    )
    last_layers: int = identity(1, "train_only last: so many blocks from the top", ge=1)
    layer_decay: float = plan(
        1.0, "learning rate of each block as a share of that of the block above it (ULMFiT, Howard and Ruder "
        "2018); embeddings stand below the first", gt=0, le=1,
    )  # fmt: skip
    lora: LoraSettings = identity(LoraSettings(), "low-rank adapters instead of the weights themselves")

    epochs: float | None = plan(
        None, "times that each example of the training part is seen, instead of `steps`", gt=0
    )
    steps: int = plan(300, "optimizer steps", ge=1)
    length: int = plan(128, "most tokens of a row; rows are padded to the longest of their micro-batch", ge=8)
    optimizer: OptimizerSettings = plan(OptimizerSettings(lr=5e-5, beta2=0.999), "the optimizer")
    schedule: ScheduleSettings = plan(
        ScheduleSettings(kind="linear", final=0.0), "the learning rate over time"
    )
    best_by: str = identity(
        "val_loss", "number of a validation by which checkpoints are compared, such as val_f1_macro; losses: "
        "the lowest is best, all others: the highest"
    )  # fmt: skip
    early_stop: EarlyStopSettings = plan(EarlyStopSettings(), "the end before the last step")
    validation: ValidationSettings = free(ValidationSettings(every=50), "numbers on the validation part")
    checkpoint: CheckpointSettings = free(
        CheckpointSettings(every=50, keep=1, keep_best=1), "points to continue from"
    )

    @property
    def knows_steps(self) -> bool:
        """With epochs they are counted when the examples are there."""
        return self.epochs is None

    @field_validator("best_by")
    @classmethod
    def _of_validation(cls, value: str) -> str:
        return value if value.startswith("val_") else f"val_{value}"

    @model_validator(mode="after")
    def _task_agrees(self) -> FinetuneSettings:
        kind, task = self.task.kind, self.task
        if self.epochs is not None and "steps" in self.model_fields_set:
            raise ValueError(
                "steps and epochs both say how long the training is: leave one out (--finetune.epochs null)"
            )
        if task.loss == "hinge" and kind not in ("classification", "multi_label"):
            raise ValueError(f"task.loss hinge is for classification and multi_label, task.kind is {kind}")
        if task.class_weights != "none" and kind not in ("classification", "token_classification"):
            raise ValueError(
                f"task.class_weights are for classification and token_classification, task.kind is {kind}"
            )
        if task.too_long == "window" and kind in ("instruction", "token_classification"):
            raise ValueError(f"task.too_long window is for texts that get one answer, task.kind is {kind}")
        if task.too_long == "window" and task.stride >= self.length:
            raise ValueError(f"task.stride ({task.stride}) must be below length ({self.length})")
        if self.lora.rank and self.train_only != "all":
            raise ValueError("lora.rank trains adapters and the head: leave train_only at all")
        if self.samples.prompts and kind != "instruction":
            raise ValueError(f"samples.prompts are for instruction: task.kind {kind} writes no text")
        if self.early_stop.patience and not self.validation.every:
            raise ValueError("early_stop.patience counts validations, and validation.every is 0")
        if self.validation.where == "workers":
            raise ValueError("validation.where workers is for pretraining: leave it at trainer")
        return self
