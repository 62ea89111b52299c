"""The shard contract: files of a corpus, and how they are read."""
