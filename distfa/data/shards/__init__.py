"""Data sets that need not fit into memory: shards, read where their rows are used."""
