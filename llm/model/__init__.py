"""Ids to logits.

ids --embeddings--> states --blocks (attention, feed-forward)--> states --heads--> logits, losses
     `-------------------- transformer -----------------------'        `-- gpt, bert --'
"""

from llm.model.bert import BERT
from llm.model.gpt import GPT
from llm.settings import ModelSettings

Model = GPT | BERT


def make_model(settings: ModelSettings, vocab_size: int, seed: int = 0) -> Model:
    """A model with fresh weights, a function of (settings, vocabulary, seed)."""
    return (BERT if settings.kind == "bert" else GPT)(settings, vocab_size, seed)
