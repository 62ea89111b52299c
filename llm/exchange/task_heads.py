"""The classes of transformers with a task's head: what each adds to a body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cluster.errors import UserError
from llm.exchange.architectures import Architecture
from llm.exchange.fields import Config
from llm.exchange.weights import Weight, linear
from llm.finetune_settings import SEQUENCE_KINDS
from llm.settings import ModelSettings

ROWS, TOKENS, SPANS = "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"
# What stands on a body in pretraining, and is left behind.
LEFT = ("lm_head.", "lm_transform.", "next_head.", "pooler.")
MISSING = ("ApertusForSequenceClassification", "ApertusForQuestionAnswering")
PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True)
class Task:
    """What a model was fine-tuned for; plain values of the run's record."""

    kind: str
    outputs: int
    """Of the head; 0: there is none, the model's own output layer was trained (instruction)."""
    dropout: float = 0.0
    labels: tuple[str, ...] = ()

    @property
    def of_row(self) -> bool:
        return self.kind in SEQUENCE_KINDS


class TaskArchitecture(Architecture):
    """An architecture whose output layer is a task's head, e.g. 'BertForSequenceClassification'."""

    def __init__(self, base: Architecture, task: Task) -> None:
        """UserError where transformers has no such class."""
        super().__init__(base.name)
        self.base, self.task = base, task
        ending = SPANS if task.kind == "question_answering" else ROWS if task.of_row else TOKENS
        kin = base.name.split("For")[0].removesuffix("LMHeadModel")
        self.name = f"{kin}{ending}"
        if self.name in MISSING:
            raise UserError(
                f"transformers has no {self.name}: a {base.name} fine-tuned for {task.kind} stays here"
            )

    @property
    def head(self) -> str:
        """Their name of the head."""
        if self.task.kind == "question_answering":
            return "qa_outputs"
        bert = self.model_type == "bert"
        return "classifier" if bert or (self.model_type == "gpt2" and not self.task.of_row) else "score"

    @property
    def body(self) -> str:
        """What stands before the names of its body: of some, only here, another prefix than elsewhere."""
        spans = self.task.kind == "question_answering" and self.prefix == "model."
        return "transformer." if spans and self.model_type != "mistral" else self.prefix

    def weights(self, settings: ModelSettings, vocab_size: int) -> list[Weight]:
        """Every tensor of it: the body's, a BERT's pooler for rows, the head's."""
        return list(self._weights(settings, vocab_size))

    def _weights(self, settings: ModelSettings, vocab_size: int) -> Iterator[Weight]:
        for weight in self.base.weights(settings, vocab_size):
            if not weight.ours.startswith(LEFT):
                names = (f"{self.body}{name.removeprefix(self.prefix)}" for name in weight.theirs)
                yield replace(weight, theirs=tuple(names))
        bert = self.model_type == "bert"
        if bert and self.task.of_row:
            yield from linear("pooler", "bert.pooler.dense", settings.width, settings.width, True)
        biased = bert or not self.task.of_row
        yield from linear("head", self.head, self.task.outputs, settings.width, biased)

    def config(self, settings: ModelSettings) -> Config:
        """Fields of config.json: those of the base, with classes by number and by name."""
        names = dict(enumerate(self.task.labels))
        labels = {str(n): names.get(n, f"LABEL_{n}") for n in range(self.task.outputs)}
        config = {
            **self.base.config(settings),
            "architectures": [self.name],
            "id2label": labels,
            "label2id": {label: int(number) for number, label in labels.items()},
            "classifier_dropout": self.task.dropout,
        }
        if self.task.of_row:
            config["problem_type"] = PROBLEMS[self.task.kind]
        return config
