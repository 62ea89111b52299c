"""Answers that an instruction model writes, to be compared with those that were wanted."""

from __future__ import annotations

import numpy as np

from cluster.errors import UserError
from llm.evaluation.local_workers import share_of
from llm.evaluation.subject import Subject, context_of, never_written
from llm.model.generation import write
from llm.model.gpt import GPT
from llm.model.sampling import Sampling
from llm.tasks.judged import Judged
from llm.tasks.judging import judge_written
from llm.tasks.references import References
from llm.train.group import Group

MOST_TOKENS = 256  # of an answer


def judge_answers(
    subject: Subject, references: References, batch: int, group: Group
) -> tuple[list[str], Judged]:
    """What is written after each prompt, always the likeliest token, up to the eos; and what that came to.

    Batches are shared by the workers as one alone would have them.
    """
    prompts, golds = references.prompts, references.answers
    if prompts is None or golds is None or not isinstance(subject.model, GPT):
        raise UserError("--generate: only an instruction model writes answers; leave it out")
    numbers = np.arange(references.examples)
    batches = [numbers[first : first + batch] for first in range(0, len(numbers), batch)]
    mine = share_of(batches, group)
    found = [text for some in mine for text in _written(subject, subject.model, [prompts[n] for n in some])]
    texts = [text for part in group.gather(found) for text in part]
    return texts, judge_written(texts, golds)


def _written(subject: Subject, model: GPT, prompts: list[np.ndarray]) -> list[str]:
    """After each prompt."""
    tokenizer, context = subject.tokenizer, context_of(subject)
    most, never = min(MOST_TOKENS, context // 2), tuple(never_written(subject))
    sampling = Sampling(tokens=most, temperature=0, stop=tokenizer.eos_id, forbidden=never)
    rows = [prompt.tolist() for prompt in prompts]
    texts = [""] * len(rows)
    for row, piece in write(model, tokenizer, rows, sampling, context):
        texts[row] += piece
    return texts
