"""Raw files to records, or counted rejects."""
