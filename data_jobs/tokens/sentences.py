"""Where sentences end, as offsets in the UTF-8 bytes of a text, then as offsets in its tokens.

Rules (name and version stand in the manifest; a changed rule gets a new name):

- `prose-1`: after . ! ? … and the sentence ends of other scripts, with the quotes and brackets that follow,
  where a blank or the end comes next and no small letter after it; after 。！？ and their like at once; at
  blank lines.
- `code-1`: at blank lines, and before a line that starts a definition (def, class, func, fn, function,
  interface, struct, impl, enum, a decorator), whatever its indentation.
- `whole-1`: at the document's end alone (an image has no sentences).

A mark never stands inside the white space: it stands before it.
"""

from __future__ import annotations

import numpy as np

from data_jobs.tokens.text_column import Offsets, TextColumn, TokenColumn

PROSE, CODE, WHOLE = "prose-1", "code-1", "whole-1"


def rule_of(format: str) -> str:
    """The rule for a source's format."""
    return {"code": CODE, "images": WHOLE}.get(format, PROSE)


def sentence_ends(texts: TextColumn, rule: str) -> Offsets:
    """Exclusive ends of sentences in UTF-8 bytes, strictly increasing; the last one is the text's end.

    An empty text has none.
    """
    if rule == WHOLE:
        sizes = texts.sizes
        return Offsets(sizes[sizes > 0], np.concatenate([[0], np.cumsum(sizes > 0)]).astype(np.int64))
    # Late: numba takes its time, and who reads the name of a rule has no use for it.
    from data_jobs.tokens.sentence_kernel import find_ends, kinds

    ends = np.empty(len(texts.data), np.int64)
    bounds = np.empty(len(texts.bounds), np.int64)
    count = find_ends(texts.data, texts.bounds, rule == CODE, kinds(), ends, bounds)
    return Offsets(ends[:count].copy(), bounds)


def token_ends(sentences: Offsets, tokens: TokenColumn) -> Offsets:
    """Byte offsets as token offsets: how many tokens reach the end of the sentence, its last one included.

    Each text has a token, and the last one ends where its last sentence does. Strictly increasing; the last
    one is the number of the document's tokens without its eos. Tokens that add nothing (other parts of a
    character, for some tokenizers) belong to the one that they follow.
    """
    texts = len(tokens.bounds) - 1
    if not texts:
        return Offsets(np.zeros(0, np.int64), np.zeros(1, np.int64))
    # All texts on one line, each a byte apart from the next.
    starts = np.concatenate([[0], np.cumsum(tokens.ends[tokens.bounds[1:] - 1] + 1)[:-1]])
    text = np.repeat(np.arange(texts), np.diff(sentences.bounds))
    reached = tokens.ends + np.repeat(starts, np.diff(tokens.bounds))
    first = np.searchsorted(reached, sentences.values + starts[text])
    after = np.searchsorted(reached, reached[first], side="right")
    kept = np.append(np.diff(after) > 0, True)
    counts = np.bincount(text[kept], minlength=texts)
    return Offsets(
        after[kept] - tokens.bounds[text[kept]], np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    )
