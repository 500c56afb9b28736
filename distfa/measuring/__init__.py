"""What plans and benchmarks share: the machine, its processes, tasks, and one run on Ray."""
