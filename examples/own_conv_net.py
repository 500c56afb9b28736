"""A conv net of your own, on handwritten digits, each layer a process of its own.

python examples/own_conv_net.py           # on Ray
python examples/own_conv_net.py serial    # the same bits in one process
"""

import sys

from torch import manual_seed, nn

import distfa


class Block(nn.Module):
    """A residual block: one layer, as every module with parameters is."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x):
        """x + relu(norm(conv(x)))."""
        return x + self.norm(self.conv(x)).relu()


def main(engine="ray"):
    """Train, and say what came of it."""
    manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    print(distfa.split(model, (1, 8, 8)))
    trainer = distfa.Trainer(model, rule="dfa", epochs=4, engine=engine, callbacks=distfa.EarlyStopping(patience=2))
    result = trainer.fit("digits")
    print(trainer.history)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
