"""Pretrain a model on a corpus: `python -m llm.pretrain RECIPE [--section.key VALUE ...]`."""

from __future__ import annotations

import time
from typing import Any

from cluster import places
from cluster.errors import run_command
from cluster.recipe import Recipe
from cluster.settings import ClusterSettings
from data_jobs import open_corpus
from data_jobs.tokens.tokenizer import Tokenizer
from llm.settings import ModelSettings, PretrainSettings
from llm.train.checkpoints.save import committed_folders
from llm.train.launch import check_fits
from llm.train.run_folder import RunFolder, open_run
from llm.train.running import Prepared, Run, RunOptions, train_command, train_run
from llm.train.start import check_start, check_writes, find_start, model_over

DESCRIPTION = """Pretrain a model on a corpus. The same command again continues from the last good checkpoint
and ends with the same result; a finished run is left alone."""


def main(argv: list[str]) -> int:
    return train_command("pretrain", DESCRIPTION, argv, run, in_a_line)


def run(recipe: Recipe) -> dict[str, Any]:
    """Train to the end, or go on with what is there; the summary. Ray may be initialised already."""
    return train_run(*prepare(recipe))


def prepare(recipe: Recipe) -> Prepared:
    """All that can be checked before anything starts; what `train_run` takes."""
    began = time.time()
    options = RunOptions.of(recipe.options)
    settings = recipe.need(PretrainSettings)
    folder = RunFolder(places.absolute(recipe.out("pretrain")))
    if settings.start_from is not None:
        settings = settings.model_copy(update={"start_from": str(places.absolute(settings.start_from))})
    corpus_path = settings.corpus or recipe.out("corpus")
    cluster = recipe.get(ClusterSettings)
    corpus = open_corpus(corpus_path, "read", cluster.cache)  # the workers check what they read
    model, vocab_size, start = _model(recipe, settings.start_from, folder, corpus.tokenizer, options.fresh)
    corpus_folder = str(places.absolute(corpus_path))
    data = {
        "corpus": {
            "path": corpus_folder,
            "corpus_id": corpus.corpus_id,
            "tokenizer": corpus.tokenizer.fingerprint,
            "vocab_size": vocab_size,
            "clean": {
                name.removeprefix("clean."): value
                for name, value in corpus.manifest["settings"].items()
                if name.startswith("clean.")
            },
        }
    }

    def opened() -> dict[str, Any]:
        return open_run(folder, model, settings, data, options.accept, options.fresh, start)

    opened()  # refuses other settings, before anybody is waited for
    check_fits(model, settings, corpus, RunFolder(folder.path / "new") if options.fresh else folder)
    this = Run(folder, settings, corpus_folder, vocab_size, start, cluster, recipe.out("pretrain"), began)
    return this, options, opened, lambda record: corpus.tokenizer.save(folder.tokenizer)


def _model(
    recipe: Recipe, start_from: str | None, run: RunFolder, tokenizer: Tokenizer, fresh: bool
) -> tuple[ModelSettings, int, dict[str, str] | None]:
    """Model, rows of its embedding, and the start's record: looked at only while the run needs it."""
    if start_from is None:
        return recipe.need(ModelSettings), tokenizer.vocab_size, None
    given = recipe.get(ModelSettings).model_dump(exclude_unset=True) if "model" in recipe.sections else {}
    if not fresh and committed_folders(run.checkpoints):
        saved = run.read_settings()
        model = ModelSettings.model_validate(saved["model"] | given)
        return model, saved["corpus"]["vocab_size"], saved.get("start")
    start = find_start(start_from, recipe.get(ClusterSettings).cache)
    model = model_over(start, given)
    check_writes(start, start_from)
    check_start(start, start_from, model, tokenizer.fingerprint)
    return model, start.vocab_size, start.record


def in_a_line(summary: dict[str, Any]) -> str:
    """A finished run in a line."""
    words = [f"{summary['parameters']:,} parameters", f"{summary['steps']} steps"]
    if summary["loss"] is not None:
        words.append(f"loss {summary['loss']:.4f}")
    if summary["val_loss"] is None:
        return ", ".join([*words, "no validation documents (corpus.val_fraction)"])
    words.append(f"validation {summary['val_loss']:.4f}")
    if summary["bits_per_byte"] is not None:
        words.append(f"{summary['bits_per_byte']:.4f} bits per byte")
    if "val_masked_accuracy" in summary:
        words.append(f"masked accuracy {summary['val_masked_accuracy']:.4f}")
    if "val_nsp_accuracy" in summary:
        words.append(f"next sentence accuracy {summary['val_nsp_accuracy']:.4f}")
    return ", ".join(words)


if __name__ == "__main__":
    run_command(main)
