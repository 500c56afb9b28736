"""One run from a spec to a result: its attempts, engines, checkpoints and directory."""
