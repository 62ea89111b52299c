"""A folder of Hugging Face's to the tokenizer in it.

Read are a folder with tokenizer.json; GPT-2's vocab.json with merges.txt; BERT's vocab.txt. Each is turned
into one definition, the text of a tokenizer.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordPiece

from cluster.errors import RunError, UserError
from data_jobs.tokens.tokenizer import SPECIALS
from data_jobs.tokens.tokenizer_hf import CONFIG_FILE, SPECIALS_FILE, TOKENIZER_FILE, HuggingFaceTokenizer

_REPAIR = (
    "with the transformers library, `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` writes "
    "the tokenizer.json that is read here"
)
# GPT-2's names and what a vocab.txt of BERT's has, where no file says otherwise.
_GPT2_NAMES = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_ROBERTA_NAMES = {
    "bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"
}  # fmt: skip
_BERT_NAMES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_QWEN2_NAMES = {"eos": "<|endoftext|>", "pad": "<|endoftext|>", "unk": "<|endoftext|>"}
_BY_CLASS = {
    "GPT2Tokenizer": _GPT2_NAMES, "RobertaTokenizer": _ROBERTA_NAMES, "BertTokenizer": _BERT_NAMES,
    "DistilBertTokenizer": _BERT_NAMES, "Qwen2Tokenizer": _QWEN2_NAMES,
}  # fmt: skip
_BY_MODEL_TYPE = {
    "gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer", "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer",
}  # fmt: skip
# How Qwen2 cuts words (its own published pattern).
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def read_folder(folder: Path) -> HuggingFaceTokenizer:
    """The tokenizer in a folder of Hugging Face's. UserError where there is none that can be read."""
    config = _json_of(folder / CONFIG_FILE)
    names = _names(folder, config)
    class_name = _class_name(folder, config)
    try:
        backend = _backend(folder, class_name, config)
        defaults = _BY_CLASS.get(class_name, {}) if not (folder / TOKENIZER_FILE).is_file() else {}
        names = {**{name: text for name, text in defaults.items() if _has(backend, text)}, **names}
        _add_tokens(backend, folder, config, names)
        if not (folder / TOKENIZER_FILE).is_file():
            config = {"tokenizer_class": class_name, **config}
            _add_template(backend, class_name, names)
        definition = backend.to_str()
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise RunError(f"{folder}: its tokenizer files are damaged: {error}") from None
    try:
        return HuggingFaceTokenizer(definition, names, config)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def _backend(folder: Path, class_name: str, config: dict[str, Any]) -> Backend:
    if (folder / TOKENIZER_FILE).is_file():
        backend = Backend.from_file(str(folder / TOKENIZER_FILE))
        if isinstance(backend.normalizer, normalizers.BertNormalizer):
            _follow_config(backend.normalizer, config)
        return backend
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        if class_name not in ("GPT2Tokenizer", "RobertaTokenizer", "Qwen2Tokenizer"):
            raise UserError(f"{folder}: {class_name} of vocab.json and merges.txt is not known; {_REPAIR}")
        return _byte_level(folder, class_name, bool(config.get("add_prefix_space")))
    if (folder / "vocab.txt").is_file():
        if class_name not in ("BertTokenizer", "DistilBertTokenizer"):
            raise UserError(f"{folder}: {class_name} of vocab.txt is not known; {_REPAIR}")
        return _word_piece(folder, config)
    slow = [
        path.name
        for path in sorted(folder.glob("*"))
        if path.suffix in (".model", ".pkl", ".bpe", ".tiktoken")
    ]
    if slow:
        raise UserError(f"{folder}: {', '.join(slow)} is the file of a slow tokenizer; {_REPAIR}")
    raise UserError(
        f"{folder}: no tokenizer here (sentencepiece.model, {TOKENIZER_FILE}, vocab.json with merges.txt, or "
        "vocab.txt)"
    )


def _byte_level(folder: Path, class_name: str, prefix_space: bool) -> Backend:
    vocab, merges = BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend = Backend(BPE(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False))
    if class_name == "Qwen2Tokenizer":
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2_WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=False),
            ]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    return backend


def _word_piece(folder: Path, config: dict[str, Any]) -> Backend:
    vocab = WordPiece.read_file(str(folder / "vocab.txt"))
    backend = Backend(WordPiece(vocab, unk_token=_text_of(config.get("unk_token")) or "[UNK]"))
    normalizer = normalizers.BertNormalizer()
    _follow_config(normalizer, config)
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##")
    return backend


def _add_template(backend: Backend, class_name: str, names: dict[str, str]) -> None:
    """What stands around a text for a model: not for us, but for whoever reads the saved files."""
    if class_name not in ("BertTokenizer", "DistilBertTokenizer", "RobertaTokenizer") or not names.keys() >= {
        "cls",
        "sep",
    }:
        return
    cls, sep = names["cls"], names["sep"]
    second = f"{sep} $B {sep}" if class_name == "RobertaTokenizer" else "$B:1"
    end = "" if class_name == "RobertaTokenizer" else f" {sep}:1"
    backend.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} {second}{end}",
        special_tokens=[(cls, backend.token_to_id(cls)), (sep, backend.token_to_id(sep))],
    )


def _follow_config(normalizer: normalizers.BertNormalizer, config: dict[str, Any]) -> None:
    """What tokenizer_config.json says of case and accents stands above tokenizer.json, as in transformers."""
    fields = {
        "do_lower_case": "lowercase", "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }  # fmt: skip
    for name, field in fields.items():
        if name in config:
            setattr(normalizer, field, config[name])


def _class_name(folder: Path, config: dict[str, Any]) -> str:
    """The tokenizer's class as the files say it, without 'Fast'; else the one whose files they are."""
    named = config.get("tokenizer_class")
    if isinstance(named, str):
        return named.removesuffix("Fast")
    kind = _json_of(folder / "config.json").get("model_type")
    if isinstance(kind, str):
        return _BY_MODEL_TYPE.get(kind, f"the tokenizer of '{kind}'")
    return "BertTokenizer" if (folder / "vocab.txt").is_file() else "GPT2Tokenizer"


def _names(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Names of specials to their texts: tokenizer_config.json stands above special_tokens_map.json."""
    names: dict[str, str] = {}
    for values in (_json_of(folder / SPECIALS_FILE), config):
        for name in SPECIALS:
            if f"{name}_token" in values:
                text = _text_of(values[f"{name}_token"])
                names.pop(name, None)
                if text is not None:
                    names[name] = text
    return names


def _add_tokens(backend: Backend, folder: Path, config: dict[str, Any], names: dict[str, str]) -> None:
    """Tokens beside the model's vocabulary, then the specials. UserError where an id is not the said one."""
    said: dict[int, AddedToken] = {}
    for text, token in _json_of(folder / "added_tokens.json").items():
        said[int(token)] = AddedToken(
            text, special=text in names.values(), normalized=text not in names.values()
        )
    for token, value in (config.get("added_tokens_decoder") or {}).items():
        fields = {
            name: value[name] for name in ("lstrip", "rstrip", "single_word", "normalized") if name in value
        }
        said[int(token)] = AddedToken(value["content"], special=bool(value.get("special")), **fields)
    for _, added in sorted(said.items()):
        (backend.add_special_tokens if added.special else backend.add_tokens)([added])
    wrong = [
        f"{added.content!r} has id {backend.token_to_id(added.content)}, the files say {token}"
        for token, added in said.items()
        if backend.token_to_id(added.content) != token
    ]
    if wrong:
        raise UserError(f"{folder}: its added tokens do not fit its vocabulary: {'; '.join(wrong[:3])}")
    known = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    for text in names.values():
        if text not in known and _has(backend, text):
            backend.add_special_tokens([AddedToken(text, special=True, normalized=False)])


def _has(backend: Backend, text: str) -> bool:
    return backend.token_to_id(text) is not None


def _text_of(token: Any) -> str | None:
    """A token in these files is its text, or an object with `content`, or null."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def _json_of(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: no JSON object")
    return value
