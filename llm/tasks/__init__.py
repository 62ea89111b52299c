"""Tasks of fine-tuning: from files of examples to rows for a model, and from its outputs to metrics.

files -> task_data -> rows of fields -> example_fields -> examples -> splitting -> train, val, test
      -> encode_* -> rows of tokens -> examples (on disk) -> example_rows -> micro-batches
outputs -> windows -> judging -> metrics
"""
