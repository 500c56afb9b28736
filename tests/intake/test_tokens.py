"""Samples are tokens if an Embedding of the model reads them, wherever it is; one of positions reads none."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import distfa
from distfa.errors import DataError
from distfa.intake.tokens import vocabulary

ROWS = 24


class Positions(nn.Module):
    """Adds what it has learned of each of four positions."""

    def __init__(self):
        super().__init__()
        self.of = nn.Embedding(4, 2)

    def forward(self, x):
        return x.view(-1, 4, 2) + self.of(torch.arange(4))


class Shifted(nn.Module):
    """Makes room for a symbol 0, as padding has it."""

    def forward(self, x):
        return x + 1


class Mixed(nn.Module):
    """A table whose first column is a class."""

    def __init__(self):
        super().__init__()
        self.of = nn.Embedding(5, 3)

    def forward(self, x):
        return torch.cat([self.of(x[:, 0].long()), x[:, 1:]], 1)


class OwnTable(nn.Module):
    """Looks up rows of a parameter, without an Embedding."""

    def __init__(self, look_up):
        super().__init__()
        self.table, self.look_up = nn.Parameter(torch.randn(9, 4)), look_up

    def forward(self, x):
        return self.look_up(x, self.table)


class Samples(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def positions():
    return nn.Sequential(Positions(), nn.Flatten(), nn.Linear(8, 3))


def patches():
    """An image model with positions, as transformers for images have it."""
    return nn.Sequential(nn.Conv2d(1, 2, 2, stride=2), nn.Flatten(2), Positions(), nn.Flatten(), nn.Linear(8, 3))


def symbols():
    return nn.Sequential(Shifted(), nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, 3))


def nested():
    return nn.Sequential(nn.Identity(), nn.Sequential(Shifted(), nn.Embedding(10, 4)), nn.Flatten(), nn.Linear(20, 3))


def table():
    return nn.Sequential(Mixed(), nn.Linear(5, 3))


def functional():
    return nn.Sequential(OwnTable(F.embedding), nn.Flatten(), nn.Linear(20, 3))


def indexed():
    return nn.Sequential(OwnTable(lambda x, table: table[x]), nn.Flatten(), nn.Linear(20, 3))


rng = np.random.default_rng(0)
FLOATS = rng.standard_normal((ROWS, 8)).astype(np.float32)
IMAGES = rng.integers(0, 256, (ROWS, 1, 4, 4)).astype(np.uint8)
TOKENS = rng.integers(0, 9, (ROWS, 5))
COLUMNS = np.column_stack([rng.integers(0, 5, ROWS), FLOATS[:, :2]]).astype(np.float32)
Y = rng.integers(0, 3, ROWS)
CASES = [(positions, FLOATS, None), (patches, IMAGES, None), (symbols, TOKENS, 10), (nested, TOKENS, 10)]
CASES += [(functional, TOKENS, 9), (indexed, TOKENS, 9)]


@pytest.mark.parametrize(("make", "x", "size"), [*CASES, (table, COLUMNS, None)])
@pytest.mark.parametrize("form", [lambda x: (x, Y), lambda x: Samples(x, Y), lambda x: DataLoader(Samples(x, Y))])
def test_what_the_embeddings_are_given_shows_it(make, x, size, form):
    assert vocabulary(make(), form(x), seed=0) == size


@pytest.mark.parametrize(("make", "x", "size"), CASES)
def test_such_models_are_trained(tmp_path, make, x, size):
    """Floats beside an Embedding of positions were refused, and tokens if another module came first."""
    torch.manual_seed(0)
    model = make()
    before = [p.clone() for p in model.parameters()]
    trainer = distfa.Trainer(model, engine="serial", epochs=1, batch_size=8, run_dir=str(tmp_path / "run"))
    trainer.fit((x, Y))
    assert trainer.network.tokens == (size is not None)
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert trainer.predict(x[:3]).shape == (3, 3)


def test_numbers_for_an_embedding_that_reads_them_are_refused_with_the_way_out():
    for make in (symbols, nested):
        with pytest.raises(DataError, match="tokens must be integers 0 .. 9: convert with astype"):
            distfa.Trainer(make(), engine="serial").fit((TOKENS.astype(np.float32), Y))
