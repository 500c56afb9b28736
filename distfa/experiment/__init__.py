"""Around a run: its spec, its directory, its engines, its result."""
