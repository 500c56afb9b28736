"""The terms in which the mathematics is written: networks, recipes, optimizers, draws, the order of samples."""
