"""A regression: numbers in, numbers out, with a learning rate that falls.

python examples/regression.py [serial]
"""

import sys

import numpy as np
from torch import manual_seed, nn

import distfa


def main(engine="ray"):
    """Learn the radius and the angle of points in the plane."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 2)).astype(np.float32)
    y = np.column_stack([np.hypot(*x.T), x[:, 0] * x[:, 1]]).astype(np.float32)
    manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    trainer = distfa.Trainer(
        model,
        rule="dfa",
        loss="mse",
        epochs=60,
        engine=engine,
        optimizer={"lr": 0.01, "schedule": "cosine"},
    )
    trainer.fit((x[:500], y[:500]), (x[500:], y[500:]))
    scores = trainer.evaluate((x[500:], y[500:]))
    print(f"mean absolute error {scores.mae:.3f}, R^2 {scores.r2:.3f}")
    return scores


if __name__ == "__main__":
    main(*sys.argv[1:])
