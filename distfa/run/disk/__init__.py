"""A run's files on disk: its directory, checkpoints, weights and logs; each file is either complete or absent."""
