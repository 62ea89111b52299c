"""Outputs to metrics, and later to the tasks of fine-tuning."""
