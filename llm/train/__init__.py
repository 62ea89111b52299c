"""Batches to weights.

Loader -> Engine.accumulate -> Engine.step -> metrics.jsonl, W&B
                                    |
                                    +-> checkpoint files -> receipts -> index.json
"""
