"""A trained model to numbers about it: texts, corpora, tasks, and the harness of others."""
