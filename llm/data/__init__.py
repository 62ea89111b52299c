"""Shards to batches: which tokens each training step sees, on each worker.

    step --batches--> sample numbers --mixture--> (source, position) --lanes--> start token
                                      `----------- order -----------'
    (source, start token) --rows: streams--> micro-batches of this worker
                           `---------- loader ----------'

A rule (`rules`) says how samples are made. All but `stream` pack documents, group by group, and then a sample
number leads to a sample of a plan instead of a start token:

    documents of a group --packing | sentence_rows--> table of samples --plans--> N, and the group of a sample
    (source, sample) --rows: its table, streams, masking--> micro-batches of this worker

All but plans, rows and loader are pure functions of values. The data state of a run is one integer: the next
sample number. `validation` gives the fixed rows of an evaluation. Nothing here imports torch.
"""

from llm.data.batches import BatchPlan
from llm.data.loader import Loader, Prefetch
from llm.data.masking import Vocabulary, vocabulary_of
from llm.data.order import Order, Source, Standing, order_of_corpus
from llm.data.rules import Rule, rule_of
from llm.data.samples import Batch, MicroBatch
from llm.data.streams import ArrayStream, Corpus, Stream
from llm.data.validation import Validation, validation_of_corpus, validation_of_tokens

__all__ = [
    "ArrayStream",
    "Batch",
    "BatchPlan",
    "Corpus",
    "Loader",
    "MicroBatch",
    "Order",
    "Prefetch",
    "Rule",
    "Source",
    "Standing",
    "Stream",
    "Validation",
    "Vocabulary",
    "order_of_corpus",
    "rule_of",
    "validation_of_corpus",
    "validation_of_tokens",
    "vocabulary_of",
]
