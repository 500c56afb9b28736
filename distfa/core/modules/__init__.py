"""A user's modules as layers: which are admitted, how they are tried, and what carries one out."""
