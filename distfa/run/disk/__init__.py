"""What a run keeps on disk: its directory, checkpoints, weights and logs, each file whole or absent."""
