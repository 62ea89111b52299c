"""The architectures that models come from, go to, and which of them a model is."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from cluster.errors import UserError
from llm.exchange import bert, gpt2, llama
from llm.exchange.fields import Config
from llm.exchange.weights import Shape, Weight
from llm.settings import ModelSettings

EMBEDDING, HEAD = "token_embed.weight", "lm_head.weight"
MODEL_TYPES = {
    "GPT2LMHeadModel": "gpt2", "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3", "ArceeForCausalLM": "arcee",
    "ApertusForCausalLM": "apertus", **dict.fromkeys(bert.PARTS, "bert"),
}  # fmt: skip
# Parts of an architecture whose tensors are its own without the head, which is tied.
BARE = {"GPT2Model": "GPT2LMHeadModel"}
CLASSIFIER = ("classifier.weight", "classifier.bias")
# What a new model may go to. The others are only given back as they came.
_CHOICES = [name for name in MODEL_TYPES if name not in ("BertModel", "BertForSequenceClassification")]


class Architecture:
    """One of them by name, e.g. 'LlamaForCausalLM'."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.model_type = MODEL_TYPES[name]
        self.prefix: str = self._module.PREFIX
        """What stands before the names of its body."""
        self.passed_over: str = self._module.PASSED_OVER
        """Tensors that hold no weights."""

    @property
    def _module(self) -> Any:
        return {"gpt2": gpt2, "bert": bert}.get(self.model_type, llama)

    def settings(self, config: Config) -> dict[str, Any]:
        """Fields of ModelSettings from a config.json. UserError naming a field that cannot be imported."""
        if self.model_type == "gpt2":
            return gpt2.settings_from(config)
        return (bert if self.model_type == "bert" else llama).settings_from(self.name, config)

    def config(self, settings: ModelSettings) -> Config:
        """Fields of config.json."""
        if self.model_type == "gpt2":
            own = gpt2.config_from(settings)
        elif self.model_type == "bert":
            own = bert.config_from(settings)
        else:
            own = llama.config_from(self.name, settings)
        return {
            "architectures": [self.name],
            "model_type": self.model_type,
            "tie_word_embeddings": settings.tied,
            **own,
        }

    @property
    def kind(self) -> str:
        """Our kind of model."""
        return "bert" if self.model_type == "bert" else "gpt"

    def lacks(self, settings: ModelSettings) -> dict[str, str]:
        """Our fields whose value it does not have, to the values that it has."""
        if self.model_type == "gpt2":
            found = gpt2.fits(settings)
        else:
            found = (bert if self.model_type == "bert" else llama).fits(self.name, settings)
        found["softcap"] = (settings.softcap is None, "None")
        return {name: values for name, (there, values) in found.items() if not there}

    def weights(self, settings: ModelSettings, vocab_size: int) -> list[Weight]:
        """Every tensor of it; a tied output layer is none."""
        if self.model_type == "gpt2":
            found = gpt2.weights(settings, vocab_size)
        else:
            found = (bert if self.model_type == "bert" else llama).weights(self.name, settings, vocab_size)
        return [weight for weight in found if not (settings.tied and weight.ours == HEAD)]

    @property
    def embedding(self) -> str:
        """Their name of the token embedding."""
        names = {"gpt2": "transformer.wte.weight", "bert": "bert.embeddings.word_embeddings.weight"}
        return names.get(self.model_type, "model.embed_tokens.weight")

    def fresh(self, settings: ModelSettings) -> list[str]:
        """Beginnings of the names of our tensors that it does not have: they start anew."""
        if self.model_type != "bert":
            return []
        parts = bert.PARTS[self.name]
        found = [] if bert.LM in parts else ["lm_transform.", "lm_head."]
        return found + (["next_head."] if settings.next_sentence and bert.NEXT_HEAD not in parts else [])

    def aside(self) -> tuple[str, ...]:
        """Names of tensors that our model has no place for, and that are kept beside it."""
        return CLASSIFIER if self.name == "BertForSequenceClassification" else ()

    def copies(self, settings: ModelSettings) -> dict[str, str]:
        """Their tensors that may be there as a second copy of another."""
        found: dict[str, str] = {}
        if settings.tied:
            head = "cls.predictions.decoder.weight" if self.model_type == "bert" else "lm_head.weight"
            found[head] = self.embedding
        if settings.tied and self.model_type == "bert":
            found[bert.BIASES[1]] = bert.BIASES[0]
        return found

    def canonical(self, names: Iterable[str]) -> dict[str, str]:
        """Each name in its present form, to the name in the files.

        Old files have gamma and beta for norms; those of a bare body lack the prefix.
        """
        files = list(names)
        bare = not any(name.startswith(self.prefix) for name in files)
        found = {}
        for name in files:
            new = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
            new = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new)
            own = new.startswith(("lm_head.", "cls.", "classifier."))
            found[f"{self.prefix}{new}" if bare and not own else new] = name
        bias = bert.BIASES
        if bias[0] in found:  # one tensor with two names is saved by the first
            found.setdefault(bias[1], found[bias[0]])
        return found


def architecture_of(config: Config, names: Collection[str]) -> Architecture:
    """The one that a config.json names, seen beside the names of its tensors."""
    named = config.get("architectures") or []
    name = named[0] if isinstance(named, list) and named else None
    if name is None:  # the first published ones have no such field
        kinds = {"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}
        name = kinds.get(str(config.get("model_type")), f"model_type {config.get('model_type')!r}")
    name = BARE.get(str(name), str(name))
    if name == "BertForMaskedLM" and bert.NEXT in names:
        name = "BertForPreTraining"
    if name not in MODEL_TYPES:
        raise UserError(
            f"config.json: the architecture {name} cannot be imported; known are {', '.join(MODEL_TYPES)}"
        )
    return Architecture(name)


def architecture_for(settings: ModelSettings, came_as: str | None = None) -> Architecture:
    """The one that a model goes to: the one that it came as, or the first that has all of its switches.

    UserError naming the switches of the one that has most of them, each beside the value that it has.
    """
    options = [Architecture(name) for name in ([came_as] if came_as else _CHOICES)]
    options = [option for option in options if option.kind == settings.kind]
    ranked = sorted(options, key=lambda option: len(option.lacks(settings)))
    missing = ranked[0].lacks(settings)
    if missing:
        values = "; ".join(
            f"model.{name} is {getattr(settings, name)!r}, there it is {needed}"
            for name, needed in missing.items()
        )
        raise UserError(
            f"no architecture of transformers that we know has this model; the nearest is {ranked[0].name}: "
            f"{values}. These are fixed by the training: to export, train a model with those values"
        )
    return ranked[0]


def differences(found: dict[str, Shape], wanted: dict[str, Shape]) -> list[str]:
    """What is missing, left over or of another shape, a line each."""
    lines = []
    if missing := sorted(wanted.keys() - found.keys()):
        lines.append(f"missing: {_few(missing)}")
    if extra := sorted(found.keys() - wanted.keys()):
        lines.append(f"left over: {_few(extra)}")
    shapes = [
        f"{name} is {list(found[name])}, should be {list(wanted[name])}"
        for name in sorted(found.keys() & wanted.keys())
        if found[name] != wanted[name]
    ]
    if shapes:
        lines.append(f"other shapes: {_few(shapes)}")
    return lines


def _few(items: list[str], most: int = 4) -> str:
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
