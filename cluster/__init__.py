"""Machines: places, settings machinery, processes. Knows nothing of text or models."""
