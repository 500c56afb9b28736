"""Start a run on a cluster by the tools of that cluster: files rendered from the spec, commands run in order."""
