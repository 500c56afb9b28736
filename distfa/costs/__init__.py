"""The cost of a layer, in what it computes, sends and holds: for the split of a network, plans and benchmarks."""
