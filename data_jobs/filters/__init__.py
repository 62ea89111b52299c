"""Which documents stay, and why others do not."""
