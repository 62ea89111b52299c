"""What is repeated: near duplicates, lines and paragraphs, evaluation texts."""
