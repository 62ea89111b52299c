"""Text to tokens: tokenizers, their training, sentence ends."""
