"""Random augmentation by a torch Dataset: every epoch sees other images, and every run can be repeated.

python examples/augmentation.py [serial]
"""

import sys

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import distfa
from distfa import data


class Shifted(Dataset):
    """Images, moved by up to one pixel each way."""

    def __init__(self, images, labels):
        self.images, self.labels = torch.from_numpy(images).float() / 16, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        down, right = (int(torch.randint(-1, 2, ())) for _ in range(2))
        return self.images[index].roll((down, right), (1, 2)), int(self.labels[index])


def main(engine="ray"):
    """Train on images that are never twice the same."""
    digits = data.load("digits")
    shape = (-1, *digits.shape)
    train = DataLoader(Shifted(digits.train_x.reshape(shape), digits.train_y), batch_size=32, shuffle=True)
    test = (digits.test_x.reshape(shape).astype(np.float32) / 16, digits.test_y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    result = distfa.Trainer(model, rule="dfa", epochs=3, engine=engine).fit(train, test)
    print(result)
    return result


if __name__ == "__main__":
    main(*sys.argv[1:])
