"""Our tokenizer as the files that `transformers.AutoTokenizer` reads.

The ids are ours for every text, and decoding gives the text back. What differs by purpose:

- gpt: the token that our texts begin with, the eos of the text before, is put before a text, and is called
  its bos. `split_special_tokens` is true: '</s>' in a text is four characters, as here.
- bert: it is false, since whoever fills masks writes '[MASK]' and means the special. So '</s>' in a text is
  the special, too. [CLS] and [SEP] are added around a text and after a second one (types 0 and 1).
  A blank before '[MASK]' belongs to the mask: tokens of words carry the blank before them, so a word that
  was hidden in training took its blank along. One blank, and none of a line's indentation, which is a token
  of its own; `lstrip` of the mask would take all. (Who sets `split_special_tokens` loses that blank, too.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, decoders, normalizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from cluster.errors import RunError, UserError
from cluster.places import write_bytes, write_json
from data_jobs.tokens.tokenizer import NEWLINES, SPACE, SPECIALS, SentencePieceTokenizer, Tokenizer
from data_jobs.tokens.tokenizer_hf import CONFIG_FILE, TOKENIZER_FILE, HuggingFaceTokenizer

TEMPLATE_FILE = "chat_template.jinja"
Kind = Literal["gpt", "bert"]
Merge = tuple[str, str]


def write_tokenizer(
    tokenizer: Tokenizer,
    folder: str | Path,
    kind: Kind,
    context: int,
    ends: bool = False,
    chat_template: str | None = None,
) -> None:
    """Write tokenizer.json and tokenizer_config.json; `context` is the longest text in tokens.

    `ends`: a GPT's text ends with an eos, too: what a head reads. `chat_template`: how a conversation is
    written, whose specials are then read as such. A tokenizer that came from Hugging Face goes back as it is.
    """
    if chat_template is not None:
        write_bytes(Path(folder) / TEMPLATE_FILE, chat_template.encode())
    if isinstance(tokenizer, HuggingFaceTokenizer):
        tokenizer.save(folder)
        return
    if not isinstance(tokenizer, SentencePieceTokenizer):
        raise UserError(f"a tokenizer of kind '{tokenizer.kind}' has no files of Hugging Face's")
    if tokenizer.algorithm != "bpe":
        raise UserError(
            f"the tokenizer is a SentencePiece {tokenizer.algorithm}: only a bpe can be written as a list of "
            "merges"
        )
    backend = to_backend(tokenizer)
    names = {name: SPECIALS[name] for name in tokenizer.specials}
    if kind == "gpt":
        names["bos"] = eos = names["eos"]
        backend.post_processor = processors.TemplateProcessing(
            single=f"{eos} $A {eos}" if ends else f"{eos} $A",
            pair=f"{eos} $A {eos} $B {eos}" if ends else f"{eos} $A $B",
            special_tokens=[(eos, tokenizer.eos_id)],
        )
    else:
        mask = names["mask"]
        # Looked for after the normalizer, unlike the line ends, whose blanks are gone by then.
        backend.add_special_tokens([AddedToken(mask, special=True, normalized=True)])
        backend.normalizer = normalizers.Replace(f" {mask}", mask)
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(SPECIALS[name], tokenizer.specials[name]) for name in ("cls", "sep")],
        )
    write_bytes(Path(folder) / TOKENIZER_FILE, backend.to_str(pretty=True).encode())
    types = ["token_type_ids"] if kind == "bert" else []
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": kind == "gpt" and chat_template is None,
        **{f"{name}_token": text for name, text in names.items()},
    }
    write_json(Path(folder) / CONFIG_FILE, config)


def to_backend(tokenizer: SentencePieceTokenizer) -> Backend:
    """The same rules in the `tokenizers` library.

    - Spaces stay spaces, in entries too, and nothing is normalised: so a U+2581 of the text is a character
      without an entry, and is spelled in bytes, as here.
    - The fixed entries (newlines with their indentation) are added tokens: found before any merge, the
      longest first, as SentencePiece finds its user-defined symbols.
    - SentencePiece knows no merges. It joins the two neighbours whose join is the entry with the best score,
      the leftmost of equals. So every split of an entry into two entries is a merge, in the order of scores.

    RunError where the library's one order of merges could give other ids (see `_undecided`).
    """
    entries, ranks = _entries(tokenizer)
    if " " not in ranks:
        raise RunError("the vocabulary has no entry for a blank, so it would be spelled differently there")
    merges = [
        split
        for piece in sorted(ranks, key=ranks.__getitem__)
        for split in sorted(_splits(piece, ranks), key=lambda split: -len(split[0]))
    ]
    backend = Backend(BPE(entries, merges, unk_token=SPECIALS["unk"], byte_fallback=True, fuse_unk=False))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(
        [AddedToken(SPECIALS[name], special=True, normalized=False) for name in tokenizer.specials]
    )
    fixed = [piece.replace(SPACE, " ") for piece in NEWLINES]
    backend.add_tokens([AddedToken(piece, normalized=False) for piece in fixed if piece in entries])
    texts = sorted(set(_undecided(ranks)))
    for text, ours, theirs in zip(texts, tokenizer.encode_batch(texts), backend.encode_batch_fast(texts)):
        if ours.tolist() != theirs.ids:
            raise RunError(
                f"the vocabulary cannot be written as a list of merges: {text!r} would be other tokens"
            )
    return backend


def _entries(tokenizer: SentencePieceTokenizer) -> tuple[dict[str, int], dict[str, int]]:
    """(text to id of all entries, text to rank of those that a merge reads or makes; the best is rank 0)."""
    entries: dict[str, int] = {}
    scores: dict[str, float] = {}
    fixed = {*NEWLINES, *SPECIALS.values()}
    for token, (piece, score) in enumerate(tokenizer.entries()):
        text = piece.replace(SPACE, " ")
        entries[text] = token
        if piece not in fixed and not tokenizer.is_byte(token):
            scores[text] = score
    made = sorted((text for text in scores if len(text) > 1), key=lambda text: -scores[text])
    single = {text for text in scores if len(text) == 1}
    if strange := set("".join(made)) - single:
        raise RunError(f"entries hold characters that are no entries: {sorted(strange)[:10]}")
    return entries, {text: rank for rank, text in enumerate([*sorted(single), *made])}


def _splits(piece: str, ranks: dict[str, int]) -> list[Merge]:
    """Every way to make an entry of two."""
    cuts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return [(left, right) for left, right in cuts if left in ranks and right in ranks]


def _undecided(ranks: dict[str, int]) -> Iterator[str]:
    """Texts in which the order of two splits of one entry matters, if it does anywhere.

    SentencePiece takes the leftmost of two joins that make one entry; a list of merges has an order among
    the splits. That shows where both stand side by side (the entry twice), where they share their middle
    (left + middle = middle + right = entry), or where joins that are better but come later reach from one
    to the other. In none of the vocabularies that we trained (500 to 8,000 entries; English, Chinese, code)
    did one of these texts differ.
    """
    for piece in ranks:
        splits = _splits(piece, ranks)
        if len(splits) < 2:
            continue
        yield piece + piece
        yield from (left + piece for left, right in splits if piece.startswith(right))
    for whole, rank in ranks.items():
        for left, right in _splits(whole, ranks):
            if max(ranks[left], ranks[right]) > rank:
                yield from (left + right + left, right + left + right)
