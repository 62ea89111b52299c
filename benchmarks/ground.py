"""What all benchmarks stand on: a recipe, its corpus made once, a folder that goes away."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import yaml

from benchmarks.process import run_module
from cluster.recipe import Recipe, load_recipe
from data_jobs.corpus import Corpus, open_corpus
from data_jobs.inputs import list_files
from data_jobs.pipeline import Build
from data_jobs.settings import CorpusSettings
from data_jobs.work import run_here
from llm.settings import ModelSettings, PretrainSettings

TINY = {
    "corpus": {
        "sources": [{"name": "stdlib", "path": "{stdlib}/json", "format": "code"}],
        "tokenizer": {"vocab_size": 512},
        "val_fraction": 0.0,
    },
    "model": {"layers": 2, "width": 32, "heads": 2, "context": 64},
    "pretrain": {
        "batch": 4,
        "length": 64,
        "micro_batch": 4,
        "optimizer": {"lr": 3e-3},
        "schedule": {"warmup_steps": 2},
    },
}


class Ground:
    """One run of the benchmarks. `quick`: a tiny recipe, whose numbers say only that all of it works."""

    def __init__(self, folder: Path, quick: bool, say: Callable[[str], None]) -> None:
        self.folder, self.quick, self.say = folder, quick, say
        self.consumed: float | None = None
        """Tokens/s of the training that `train` has measured in this run."""
        self._runs = 0

    @cached_property
    def recipe_path(self) -> str:
        """What the commands get as RECIPE."""
        if not self.quick:
            return "demo"
        path = self.folder / "tiny.yaml"
        path.write_text(yaml.safe_dump(TINY))
        return str(path)

    @cached_property
    def recipe(self) -> Recipe:
        return load_recipe(self.recipe_path)

    @property
    def model(self) -> ModelSettings:
        return self.recipe.need(ModelSettings)

    @property
    def pretrain(self) -> PretrainSettings:
        return self.recipe.need(PretrainSettings)

    @cached_property
    def corpus(self) -> Corpus:
        """The recipe's corpus, without a val split."""
        return self.prepared("corpus", 0.0)

    def prepared(self, name: str, val_fraction: float) -> Corpus:
        """The recipe's corpus in a folder of this name, by the real command; a quick one without Ray."""
        out = self.folder / name
        self.say(f"preparing the corpus of {self.recipe.name}")
        if self.quick:
            settings = self.recipe.need(CorpusSettings).model_copy(update={"val_fraction": val_fraction})
            Build(settings, out, list_files(settings.sources), run_here, lambda *_: None).run()
        else:
            options = ("--corpus.out", str(out), "--corpus.val_fraction", str(val_fraction))
            run_module(self.log(), "data_jobs.prepare", self.recipe_path, *options)
        return open_corpus(out)

    @cached_property
    def tokens(self) -> Path:
        """The same training tokens as one flat file of uint16, as the bare loop reads them."""
        path = self.folder / "tokens.bin"
        with open(path, "wb") as file:
            for source in self.corpus.sources("train"):
                stream = self.corpus.stream(source, "train")
                stream.read(0, stream.tokens).astype("<u2").tofile(file)
        return path

    def fresh(self, name: str) -> Path:
        """A path in the folder that nobody has used."""
        self._runs += 1
        return self.folder / f"{name}-{self._runs}"

    def log(self) -> Path:
        return self.fresh("log")
