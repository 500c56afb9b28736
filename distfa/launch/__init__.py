"""Start a run with the tools of a cluster: files are rendered from the spec, commands are run in order."""
