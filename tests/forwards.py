"""Models with forwards of their own, as users write them."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Tutorial(nn.Module):
    """torch's own tutorial: one pool called twice, functions between the modules."""

    def __init__(self):
        super().__init__()
        self.conv1, self.pool = nn.Conv2d(3, 6, 5), nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8 * 2 * 2, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        return self.fc2(F.relu(self.fc1(x)))


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, mask):
        n, t, width = x.shape
        q, k, v = (z.view(n, t, self.heads, -1).transpose(1, 2) for z in self.qkv(x).chunk(3, dim=-1))
        scores = (q @ k.transpose(-2, -1)) / (width // self.heads) ** 0.5
        scores = scores.masked_fill(mask[:, :, :t, :t] == 0, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, width))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1))

    def forward(self, x, mask):
        x = x + self.attention(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Embeddings added in forward, a mask that every block reads, a head of its own or the embedding's."""

    def __init__(self, *, tied=False, vocabulary=11, length=6, width=8, blocks=3):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 2) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.register_buffer("mask", torch.tril(torch.ones(length, length)).view(1, 1, length, length))
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, idx, targets=None):
        _, t = idx.size()
        assert t <= self.mask.shape[-1], "too long"
        place = torch.arange(0, t, dtype=torch.long, device=idx.device)
        x = self.tokens(idx) + self.places(place)
        for block in self.blocks:
            x = block(x, self.mask)
        logits = self.head(self.norm(x))
        if targets is not None:
            return logits, F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))
        return logits


class Patches(nn.Module):
    """A class token and places that are parameters of no module."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.class_token, self.places = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.one = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.two = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        n = x.shape[0]
        torch._assert(x.shape[2] == 8, "wrong height")
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(n, -1, -1), x], dim=1) + self.places
        return self.head(self.two(self.one(x))[:, 0])


class Wide(nn.Module):
    """Three Linears with something between the first two; a base for forwards that differ in one thing."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 5)
        self.calls, self.seen = 0, []
        self.own = np.random.default_rng(0)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("scale", torch.full((6,), 2.0))

    def between(self, h):
        return h

    def forward(self, x):
        h = self.between(self.one(x).relu())
        return self.three(self.two(h).relu())


class Dropping(Wide):
    def between(self, h):
        return F.dropout(h, 0.5, training=self.training)


class Noisy(Wide):
    def between(self, h):
        return h + 0.1 * torch.randn_like(h) * torch.rand(1)


class TrainsOtherwise(Wide):
    """Another graph in training than in evaluation."""

    def between(self, h):
        if self.training:
            h = h * torch.empty(6).bernoulli_(0.8)
            return h - h.mean()
        return h * 0.8


class LateRows(Wide):
    """The number of rows and the dtype are read at the start and used at the end."""

    def forward(self, x):
        n, kind = x.shape[0], x.dtype
        if kind != self.one.weight.dtype:
            raise TypeError("numbers of another kind")
        h = self.two(self.one(x).relu()).relu()
        mean = torch.ones(6, 6, dtype=kind, device=x.device) / 6
        return self.three((h.view(n, 2, 3).reshape(n, 6) @ mean).to(kind))


class Counting(Wide):
    """A buffer that counts, by an operation on it."""

    def between(self, h):
        self.count.add_(1)
        return h / (1 + self.count)


class ReadsScale(Wide):
    """A buffer that nothing changes, read twice."""

    def forward(self, x):
        h = self.one(x).relu() * self.scale
        return self.three(self.two(h).relu() * self.scale)


class BuildsMask(Wide):
    """A constant that is made in place, and read in two layers."""

    def forward(self, x):
        mask = torch.zeros(6)
        mask[::2] = 1
        mask.add_(1)
        h = self.one(x).relu() * mask
        return self.three(self.two(h).relu() * mask)


class Fills(Wide):
    """A signal is written into a constant, and read there in a later layer."""

    def forward(self, x):
        h = self.one(x).relu()
        held = torch.zeros(x.shape[0], 6, dtype=x.dtype)
        doubled = held * 2
        held[:, :3] = h[:, 3:]
        return self.three(self.two(held + doubled).relu() + 1)


class FillsLate(Wide):
    """What was written into a constant goes around a module, as a skip does."""

    def forward(self, x):
        held = torch.ones(x.shape[0], 6, dtype=x.dtype)
        held[:, 0] = self.one(x).relu()[:, 0]
        h = self.two(held)
        return self.three((h * held).relu())


class Draws(Wide):
    """A constant is drawn in place, and read by two layers."""

    def forward(self, x):
        drawn = torch.empty(6).bernoulli_(0.5)
        h = self.one(x).relu() * drawn
        return self.three(self.two(h).relu() * drawn)


class InPlace(Wide):
    """What leaves the first module is changed in place, through a view of it."""

    def forward(self, x):
        h = self.one(x)
        seen = h.view(-1, 6)
        seen += 1
        return self.three(self.two(h.mul_(0.5)).relu())


class Blocks(nn.Module):
    """Blocks that do what a trace would freeze; no cut passes through them."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(6, 6), 0

        def forward(self, x):
            self.calls += 1
            if self.training and torch.rand(1) < 0.3:
                return x
            h = self.linear(x)
            return x + (h if h.sum() > 0 else 2 * h)

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = self.Block(), self.Block(), nn.Linear(6, 5)

    def forward(self, x):
        return self.three(self.two(self.one(x)))


class Images(nn.Module):
    """A residual net with BatchNorm, dropout by function, a parameter and a buffer of its own, and an unused head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv, self.shift = nn.Conv2d(8, 8, 3, padding=1), nn.Parameter(torch.zeros(8, 1, 1))
        self.register_buffer("gain", torch.tensor(1.5))
        self.unused, self.head = nn.Linear(2, 2), nn.Linear(8 * 16, 10)

    def forward(self, x, targets=None):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.conv(x) * self.gain + self.shift)
        x = F.dropout(F.max_pool2d(x, 2), 0.2, training=self.training)
        x = self.head(x.view(x.shape[0], -1))
        return x if targets is None else F.cross_entropy(x, targets)


WORKING = {
    "images": (Images, (1, 8, 8), 3),
    "tutorial": (Tutorial, (3, 16, 16), 4),
    "gpt": (GPT, (6,), 8),
    "patches": (Patches, (3, 8, 8), 4),
    **{kind.__name__: (kind, (6,), 3) for kind in (Dropping, Noisy, TrainsOtherwise, LateRows, Counting, ReadsScale)},
    **{kind.__name__: (kind, (6,), 3) for kind in (BuildsMask, Fills, FillsLate, InPlace, Blocks)},
    "Draws": (Draws, (6,), 2),
}


class Skips(Wide):
    def between(self, h):
        return h if self.training and torch.rand(1) < 0.01 else 2 * h


class SkipsByPython(Wide):
    def between(self, h):
        return h if random.random() < 0.01 else 2 * h


class SkipsByNumpy(Wide):
    def between(self, h):
        return h if np.random.rand() < 0.01 else 2 * h


class SkipsByItsOwn(Wide):
    def between(self, h):
        return h if self.own.random() < 0.01 else 2 * h


class SkipsByANewGenerator(Wide):
    def between(self, h):
        return h if np.random.default_rng().random() < 0.01 else 2 * h


class Counts(Wide):
    def between(self, h):
        self.calls += 1
        return h


class Lists(Wide):
    def between(self, h):
        self.seen.append(h.shape[0])
        return h


class KeepsAverage(Wide):
    def between(self, h):
        self.count = 0.9 * self.count + h.mean()
        return h


class Branches(Wide):
    def between(self, h):
        return h if h.sum() > 0 else -h


class FewRows(Wide):
    def between(self, h):
        return h if h.shape[0] > 1 else -h


class EachRow(Wide):
    def between(self, h):
        return torch.stack([row / 2 for row in h])


class ReadsGlobal(Wide):
    FACTOR = torch.ones(6)

    def between(self, h):
        return h * ReadsGlobal.FACTOR


REFUSED = {
    Skips: "branches on data",
    SkipsByPython: "draws from the generator of Python or of numpy",
    SkipsByNumpy: "draws from the generator of Python or of numpy",
    SkipsByItsOwn: r"changes self\.own",
    SkipsByANewGenerator: "makes a generator of numpy",
    Counts: r"sets self\.calls",
    Lists: r"changes self\.seen",
    KeepsAverage: r"sets self\.count",
    Branches: "branches on data",
    FewRows: "branches on data",
    EachRow: "goes through the rows one by one",
    ReadsGlobal: "reads a tensor of shape",
}
