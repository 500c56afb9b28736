"""Shared by plans and benchmarks: the machine, its processes, tasks, and one run on Ray."""
