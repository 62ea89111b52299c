"""The workload of pretraining: a corpus and the model that learns its texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cluster import places
from cluster.cache import Cache
from data_jobs import open_corpus
from llm.data.batches import BatchPlan
from llm.data.loader import Loader
from llm.model import Model, make_model
from llm.settings import ModelSettings, PretrainSettings
from llm.train.group import Group
from llm.train.job import Job
from llm.train.mfu import Utilisation, measure_by
from llm.train.run_folder import RunFolder
from llm.train.run_order import make_rule, shared_order
from llm.train.start import find_again
from llm.train.validate import split_size, validate_corpus
from llm.train.workload import Forward


class Pretraining:
    """See `Workload`."""

    def __init__(self, job: Job, settings: PretrainSettings, group: Group) -> None:
        """Brings this worker's share of the corpus to its machine, and waits for what the first one plans."""
        self.job, self.settings = job, settings
        self.model_settings = ModelSettings.model_validate(job.model)
        self.cache = Cache(*job.cache)
        self.corpus = corpus = open_corpus(job.data, "read", self.cache)
        corpus.bring(group.rank * len(corpus.shards) // group.world)
        corpus.check_when(settings.verify)
        self.folder = RunFolder(places.at(job.run))
        self.rule = make_rule(corpus, self.model_settings, settings)
        self.order = shared_order(corpus, settings, self.rule, self.folder, group)
        self.facts = {"corpus_id": corpus.corpus_id}
        self.z_loss = settings.z_loss
        self.has_validation = bool(split_size(corpus, "val")[0])
        self.tokenizer = corpus.tokenizer

    def fresh_model(self) -> Model:
        return make_model(self.model_settings, self.job.vocab_size, self.settings.seed)

    def fill(self, model: Model) -> None:
        if self.job.start is not None:
            find_again(self.job.start, self.cache).fill(model)

    def loader(self, plan: BatchPlan, group: Group, micro_batch: int) -> Loader:
        return Loader(self.corpus, "train", self.order, plan, group.rank, group.world, micro_batch)

    def validate(
        self, most: int | None, model: Model, forward: Forward, group: Group, beat: Callable[[], None]
    ) -> dict[str, Any]:
        return validate_corpus(
            self.corpus, self.settings, self.rule, self.folder.plans, model, forward, group, most, beat
        )

    def measure_by(self, group: Group) -> Utilisation:
        guessed = self.settings.masking.share if self.model_settings.kind == "bert" else 1.0
        return measure_by(self.model_settings, self.job.vocab_size, self.settings, group, guessed)

    def score(self, found: dict[str, Any]) -> float | None:
        return found.get("val_loss")

    def start_of_text(self) -> Sequence[int]:
        return [self.tokenizer.eos_id]
