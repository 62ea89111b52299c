"""Questions about contexts to rows: question_answering in the form of SQuAD (Rajpurkar et al. 2016).

A row is the question and then the context, or a window of it; the question is never cut. Its targets are the
first and the last token of the first answer, or the row's first token twice where the window does not hold
all of it (Devlin et al. 2019, section 4.3).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data_jobs.tokens.tokenizer import Ids, Tokenizer
from llm.finetune_settings import TaskSettings
from llm.tasks.encoded import Encoded, EncodedRow, chunks, too_long
from llm.tasks.example_fields import Answers, BadExample, Example
from llm.tasks.row_layout import Layout, window_starts
from llm.tasks.token_spans import Ends, spans_of, tokens_of_answer


@dataclass(frozen=True)
class SpanEncoder:
    """The place of an answer in a context."""

    tokenizer: Tokenizer
    layout: Layout
    task: TaskSettings

    def encode(self, examples: Sequence[Example]) -> Iterator[Encoded | BadExample]:
        """See `Encoder`."""
        for some in chunks(examples):
            contexts = self.tokenizer.encode_with_ends([example.texts[0] for example in some])
            questions = self.tokenizer.encode_batch([example.texts[1] for example in some])
            for example, context, question in zip(some, contexts, questions, strict=True):
                try:
                    yield self._rows(example, *context, question)
                except BadExample as problem:
                    yield problem

    def _rows(self, example: Example, context: Ids, ends: Ends, question: Ids) -> Encoded:
        text, answers = example.texts[0], example.label
        assert isinstance(answers, Answers)
        if not len(context) or not len(question):
            raise BadExample("no_tokens", "context or question without a token: the tokenizer drops it all")
        room = self.layout.room(2) - len(question)
        windows = self.task.too_long == "window"
        if room < 1 or (windows and len(context) > room <= self.task.stride):
            least = self.task.stride if windows else 0
            raise BadExample(
                "question_too_long", f"the question has {len(question):,} tokens, leaving {max(0, room):,} "
                f"of finetune.length ({self.layout.length:,}) for the context; more than {least:,} are needed"
            )  # fmt: skip
        if len(context) > room and self.task.too_long == "fail":
            raise too_long(len(context) + len(question), self.layout.room(2))
        starts = window_starts(len(context), room, self.task.stride) if windows else [0]
        spans = spans_of(text, ends)
        answer = tokens_of_answer(text, ends, answers.starts[0], answers.texts[0]) if answers.texts else None
        rows, found = [], answer is None
        for start in starts:
            stop = min(start + room, len(context))
            ids, context_at = self.layout.row(question, context[start:stop])
            target = (0, 0)
            if answer is not None and start <= answer[0] and answer[1] < stop:
                target, found = (context_at + answer[0] - start, context_at + answer[1] - start), True
            columns = {
                "answer_first": target[0],
                "answer_last": target[1],
                "span_starts": spans.starts[start:stop],
                "span_stops": spans.stops[start:stop],
            }
            rows.append(EncodedRow(ids, context_at, columns))
        known = {"context": text, "answers": json.dumps(answers.texts, ensure_ascii=False)}
        cut = not windows and len(context) > room
        return Encoded(rows, cut, known, lost=not found)
