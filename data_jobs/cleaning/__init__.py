"""A text to the cleaned text."""
