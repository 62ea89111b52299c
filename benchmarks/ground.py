"""What all benchmarks stand on: a recipe, its corpus made once, a folder that goes away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from benchmarks.process import run_module
from cluster.recipe import Recipe, load_recipe
from data_jobs.pipeline import Build
from data_jobs.reading.inputs import list_files
from data_jobs.settings import CorpusSettings
from data_jobs.shards.corpus import Corpus, open_corpus
from data_jobs.work import run_here
from llm.settings import ModelSettings, PretrainSettings

Sections = Mapping[str, Mapping[str, Any]]

TINY: dict[str, dict[str, Any]] = {
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
# GPT-2's switches: what transformers has, too.
GPT2 = {"position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "biases": "all"}
# The first shape of `models` as a recipe: 6.9 M parameters. The demo's own model is half as large.
SMALL: dict[str, dict[str, Any]] = {
    "corpus": {"tokenizer": {"vocab_size": 8192, "join_punctuation": True}, "val_fraction": 0.0},
    "model": {**GPT2, "layers": 6, "width": 256, "heads": 4, "context": 256},
    "pretrain": {"batch": 16, "length": 256, "micro_batch": 16, "precision": "bf16"},
}


class Ground:
    """One run of the benchmarks. `quick`: a tiny recipe, whose numbers say only that all of it works."""

    def __init__(
        self,
        folder: Path,
        quick: bool,
        say: Callable[[str], None],
        sections: Sections | None = None,
        text: Path | None = None,
    ) -> None:
        """`sections` of a recipe (default: the demo's), on the demo's text where they name none.

        `text`: what the user gave to learn from, a folder or a corpus.
        """
        self.folder, self.quick, self.say, self.text = folder, quick, say, text
        self.sections = TINY if quick and sections is None else sections
        self.pictures: dict[str, str] = {}
        """SVG by file name, for the docs."""
        self.consumed: float | None = None
        """Tokens/s of the training that `train` has measured in this run."""
        self._runs = 0

    @cached_property
    def small(self) -> Ground:
        """The same with the model of 6.9 M parameters, and a vocabulary to match."""
        return self if self.quick else self.with_sections("small", SMALL)

    def with_sections(self, name: str, sections: Sections) -> Ground:
        """The same with a recipe of its own, in a folder below."""
        folder = self.folder / name
        folder.mkdir()
        return Ground(folder, self.quick, self.say, sections, self.text)

    @cached_property
    def recipe_path(self) -> str:
        """What the commands get as RECIPE."""
        if self.sections is None:
            return "demo"
        sections = {name: dict(section) for name, section in self.sections.items()}
        if "sources" not in sections["corpus"]:
            sections["corpus"]["sources"] = demo_sources()
        path = self.folder / ("tiny.yaml" if self.quick else f"{self.folder.name}.yaml")
        path.write_text(yaml.safe_dump(sections))
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
        """The recipe's corpus. The demo's has no val split: none is timed."""
        return self.prepared("corpus", 0.0 if self.sections is None else None)

    def prepared(self, name: str, val_fraction: float | None = None) -> Corpus:
        """The recipe's corpus in a folder of this name, by the real command; a quick one without Ray.

        `val_fraction`: another than the recipe's.
        """
        out = self.folder / name
        self.say(f"preparing the corpus of {self.recipe.name}")
        changed = {} if val_fraction is None else {"val_fraction": val_fraction}
        if self.quick:
            settings = self.recipe.need(CorpusSettings).model_copy(update=changed)
            Build(settings, out, list_files(settings.sources), run_here, lambda *_: None).run()
        else:
            options = [word for key, value in changed.items() for word in (f"--corpus.{key}", str(value))]
            run_module(self.log(), "data_jobs.prepare", self.recipe_path, "--corpus.out", str(out), *options)
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


def demo_sources() -> list[dict[str, Any]]:
    """Where the demo's text comes from: Python's standard library."""
    sections: dict[str, Any] = yaml.safe_load(load_recipe("demo").path.read_text(encoding="utf-8"))
    sources: list[dict[str, Any]] = sections["corpus"]["sources"]
    return sources
