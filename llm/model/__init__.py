"""Ids to logits.

ids --embeddings--> states --blocks (attention, feed-forward)--> states --heads--> logits, losses
     `-------------------- transformer -----------------------'        `-- gpt, bert, task_model
"""

from llm.model.bert import BERT
from llm.model.gpt import GPT
from llm.model.task_model import TaskModel
from llm.settings import ModelSettings

Model = GPT | BERT | TaskModel


def make_model(settings: ModelSettings, vocab_size: int, seed: int = 0) -> GPT | BERT:
    """A model with fresh weights, a function of (settings, vocabulary, seed)."""
    return (BERT if settings.kind == "bert" else GPT)(settings, vocab_size, seed)
