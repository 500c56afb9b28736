"""What the mathematics is written in: networks, recipes, optimizers, draws, the order of samples."""
