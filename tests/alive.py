"""Modules that are alive: they draw, count, remember, or use other parts of themselves from batch to batch."""

from __future__ import annotations

import random
from collections import deque, namedtuple
from enum import Enum
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

WIDTH = 6


class Skipping(nn.Module):
    """Stochastic depth."""

    def __init__(self, p=0.5):
        super().__init__()
        self.inner, self.p = nn.Linear(WIDTH, WIDTH), p

    def forward(self, x):
        if self.training and torch.rand(1) < self.p:
            return x
        return x + self.inner(x)


class Experts(nn.Module):
    """Eight experts, of which each batch uses two."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, 8)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(8))

    def forward(self, x):
        scores, chosen = self.gate(x).mean(0).topk(2)
        return sum(s * self.experts[int(i)](x) for s, i in zip(scores.softmax(0), chosen, strict=True))


class OnLength(nn.Module):
    """A part that only batches of more than four samples use."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.always(x) + (self.sometimes(x) if len(x) > 4 else 0)


class Joining(nn.Module):
    """A part that joins after three batches."""

    def __init__(self):
        super().__init__()
        self.first, self.later, self.calls = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), 0

    def forward(self, x):
        self.calls += self.training
        return self.first(x) + (self.later(x) if self.calls > 3 else 0)


class NumpyNoise(nn.Linear):
    def forward(self, x):
        return super().forward(x) * float(np.random.uniform(0.5, 1.5))


class PythonChoice(nn.Linear):
    def forward(self, x):
        return super().forward(x) * random.choice([0.5, 1.0, 2.0])


class Counter(nn.Linear):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) / (1 + 0.1 * self.calls)


class OwnGenerator(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, x):
        return super().forward(x) * torch.rand(x.shape, generator=self.generator, dtype=x.dtype)


class OwnNumpyGenerator(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.rng = np.random.default_rng(3)

    def forward(self, x):
        return super().forward(x) * float(self.rng.uniform(0.5, 1.5))


class OwnPythonGenerator(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.rng = random.Random(3)

    def forward(self, x):
        return super().forward(x) * self.rng.choice([0.5, 1.0, 2.0])


class PlainTensor(nn.Linear):
    """Keeps a moving average in an attribute that is no buffer."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.mean = torch.zeros(WIDTH)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return super().forward(x - self.mean)


class HiddenAverage(nn.Linear):
    """Keeps a moving average in a buffer that is in no state_dict, and changes it in place."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("mean", torch.zeros(WIDTH), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
        return super().forward(x - self.mean.clone())


class ScalingInPlace(nn.Linear):
    """Multiplies by a buffer that it changes in place: the way back of one batch may come after the next forward."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("scale", torch.ones(WIDTH))

    def forward(self, x):
        if self.training:
            self.scale.mul_(0.9).add_(x.detach().abs().mean(0), alpha=0.1)
        return super().forward(x * self.scale)


class AlwaysDropping(nn.Linear):
    """Dropout that does not know of evaluation."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.3)


class Remembering(nn.Linear):
    """Keeps its last output with its graph, and what it saw in collections and in an object."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.last, self.seen, self.recent, self.by_name = None, [], deque(maxlen=3), {"rows": 0}
        self.stats, self.array, self.other = SimpleNamespace(total=0.0), np.zeros(3), {1, 2}

    def forward(self, x):
        out = super().forward(x) + 0.01 * self.stats.total + 0.01 * self.by_name["rows"] + float(self.array.sum())
        self.last = out
        if self.training:
            self.seen.append(len(x))
            self.recent.append(float(x.detach().mean()))
            self.by_name["rows"] += len(x)
            self.stats.total = 0.5 * self.stats.total + sum(self.recent)
            self.array[len(self.seen) % 3] += 0.01
            self.other.add(len(self.seen))
        return out


class Logging(nn.Linear):
    """Keeps signals of earlier batches in a list and a deque, and reads one of them."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.outs, self.ins = [torch.zeros(1, WIDTH)], deque(maxlen=2)

    def forward(self, x):
        y = super().forward(x) + 0.1 * self.outs[0].mean(0)
        self.outs[:] = [y.detach()]
        self.ins.append(x.detach())
        return y


class Phase(Enum):
    WARM, HOT = 1, 2


Point = namedtuple("Point", "x y")


class Phased(nn.Linear):
    """Moves from one member of an Enum to another, and from one named tuple to the next."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.phase, self.point = Phase.WARM, Point(0, 1.0)

    def forward(self, x):
        if self.training:
            self.point = Point(self.point.x + 1, self.point.y * 0.9)
            self.phase = Phase.HOT if self.point.x > 2 else Phase.WARM
        return super().forward(x) * self.phase.value * self.point.y


class Teacher(nn.Module):
    """A frozen teacher that follows its student, by ``data``."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH).requires_grad_(False)

    def forward(self, x):
        if self.training:
            for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                old.data.mul_(0.9).add_(new.data, alpha=0.1)
        return self.student(x) + self.teacher(x)


class Merging(nn.Module):
    """LoRA that merges its product into the frozen base in evaluation, and takes it out in training."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.a, self.b, self.merged = nn.Parameter(torch.randn(2, WIDTH)), nn.Parameter(torch.ones(WIDTH, 2)), False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.base.weight.data += (-1 if mode else 1) * self.b.data @ self.a.data
            self.merged = not mode
        return self

    def forward(self, x):
        return self.base(x) if self.merged else self.base(x) + x @ self.a.T @ self.b.T


class NoisyBackward(nn.Linear):
    """Draws on the way back."""

    def forward(self, x):
        y = super().forward(x)
        if y.requires_grad:
            y.register_hook(lambda g: g + 0.1 * torch.rand_like(g) * g)
        return y


class Hidden(nn.Linear):
    """Has a module in a list, whose running statistics are part of its state all the same."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.hidden = [HiddenAverage(WIDTH, WIDTH).requires_grad_(False)]

    def forward(self, x):
        return super().forward(x + self.hidden[0].to(x.dtype)(x))


class OneUnderTwoNames(nn.Linear):
    """A tensor that two attributes name and one changes in place, and an attribute with a dot in its name."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.seen = self.read = torch.zeros(sizes[1])
        setattr(self, "batches.so.far", 0)

    def forward(self, x):
        h = super().forward(x)
        if self.training:
            self.seen += h.detach().mean(0)
            setattr(self, "batches.so.far", getattr(self, "batches.so.far") + 1)
        return h + self.read / max(getattr(self, "batches.so.far"), 1)


LIVE = {
    **{kind.__name__: kind for kind in (Teacher, Merging)},
    **{kind.__name__: lambda kind=kind: kind(WIDTH, WIDTH) for kind in (Logging, Phased, NoisyBackward, Hidden)},
    **{kind.__name__: kind for kind in (Skipping, Experts, OnLength, Joining)},
    **{
        kind.__name__: lambda kind=kind: kind(WIDTH, WIDTH)
        for kind in (NumpyNoise, PythonChoice, Counter, OwnGenerator, OwnNumpyGenerator, OwnPythonGenerator)
    },
    **{
        kind.__name__: lambda kind=kind: kind(WIDTH, WIDTH)
        for kind in (OneUnderTwoNames, PlainTensor, HiddenAverage, ScalingInPlace, AlwaysDropping, Remembering)
    },
}


def around(middle):
    """A network of three layers with the module as its second."""
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), middle, nn.ReLU(), nn.Linear(WIDTH, 3))
