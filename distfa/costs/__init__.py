"""What a layer computes, sends and holds: for the split of a network, plans and benchmarks."""
