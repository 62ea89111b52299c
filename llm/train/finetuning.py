"""The workload of fine-tuning: the examples of a task, and a model with the task's head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster import places
from cluster.cache import Cache
from data_jobs.tokens.tokenizer import load_tokenizer
from llm.data.batches import BatchPlan
from llm.data.loader import BatchLoader
from llm.data.samples import MicroBatch, Picks
from llm.model import Model
from llm.model.tasks import choose_trainable, fill_body, make_task_model
from llm.settings import FinetuneSettings, ModelSettings
from llm.tasks.examples import Examples, open_examples, order_of_examples
from llm.tasks.heads import head_of
from llm.tasks.scoring import evaluate_part
from llm.train.best import score_of
from llm.train.group import Group
from llm.train.job import Job
from llm.train.mfu import Utilisation, measure_by
from llm.train.run_folder import RunFolder
from llm.train.start import find_again
from llm.train.workload import Forward


class _Rows:
    """Examples as a loader asks for them."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def expect(self, picks: Picks) -> None:
        """They are mapped from a file: nothing to do ahead."""

    def make(self, picks: Picks, rows: int) -> tuple[MicroBatch, int]:
        return self.examples.make(picks.at, picks.numbers, rows)


class Finetuning:
    """See `Workload`."""

    def __init__(self, job: Job, settings: FinetuneSettings, group: Group) -> None:
        self.job, self.settings = job, settings
        self.model_settings = ModelSettings.model_validate(job.model)
        self.set = open_examples(places.at(job.data))
        train = self.set.part("train")
        assert train is not None, "examples without a training part are refused when they are made"
        self.train: Examples = train
        self.val: Examples | None = self.set.part("val")
        self.order = order_of_examples(train, settings.seed)
        self.facts = {"examples": self.set.record["digest"]}
        self.z_loss = 0.0
        self.has_validation = self.val is not None
        self.tokenizer = load_tokenizer(RunFolder(places.at(job.run)).tokenizer)

    def fresh_model(self) -> Model:
        head = head_of(self.set.record, self.settings.task)
        lora = self.settings.lora if self.settings.lora.rank else None
        model = make_task_model(self.model_settings, self.job.vocab_size, head, self.settings.seed, lora)
        choose_trainable(model, self.settings)
        return model

    def fill(self, model: Model) -> None:
        if self.job.start is None or self.settings.from_scratch:
            return
        fill_body(model, find_again(self.job.start, Cache(*self.job.cache)).weights())

    def loader(self, plan: BatchPlan, group: Group, micro_batch: int) -> BatchLoader:
        return BatchLoader(self.order, _Rows(self.train), plan, group.rank, group.world, micro_batch)

    def validate(
        self, most: int | None, model: Model, forward: Forward, group: Group, beat: Callable[[], None]
    ) -> dict[str, Any]:
        if self.val is None:
            return {}
        batch = self.settings.validation.batch
        scored = evaluate_part(model, forward, self.val, group, batch, beat, most)
        return {f"val_{name}": value for name, value in scored.numbers.items()}

    def measure_by(self, group: Group) -> Utilisation:
        return measure_by(self.model_settings, self.job.vocab_size, self.settings, group, guessed=0.0)

    def score(self, found: dict[str, Any]) -> float | None:
        return score_of(found, self.settings.best_by)

    def start_of_text(self) -> Sequence[int]:
        return [self.tokenizer.eos_id]
