"""Shards to batches: which tokens each training step sees, on each worker.

    step --batches--> sample numbers --mixture--> (source, position) --lanes--> start token
                                      `----------- order -----------'
    (source, start token) --streams--> row of L+1 tokens --samples--> micro-batches of this worker
                                      `---------------- loader -----------------'

All but the last two are pure functions of values. The data state of a run is one integer: the next sample
number. `validation` gives the fixed rows of an evaluation. Nothing here imports torch.
"""

from llm.data.batches import BatchPlan
from llm.data.loader import Loader, Prefetch
from llm.data.order import Order, Source, Standing, order_of_corpus
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
    "Source",
    "Standing",
    "Stream",
    "Validation",
    "order_of_corpus",
    "validation_of_corpus",
    "validation_of_tokens",
]
