"""Loaders of torch: rule bp on what a loader gives equals torch's own loop over that loader, batch by batch."""

import numpy as np
import pytest
import torch
from runs import blobs
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import distfa
import distfa.data.stream
from distfa.data.given_order import GivenOrder
from distfa.errors import DataError, SpecError

ROWS, EPOCHS = 46, 3
X, Y = (torch.from_numpy(part) for part in blobs(6, 5, ROWS))
ALL = TensorDataset(X, Y)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()


def g(seed=5):
    return torch.Generator().manual_seed(seed)


def ours(net, loader, run_dir, test=None, **settings):
    settings = {"rule": "bp", "init": "given", "dtype": "float64", "epochs": EPOCHS, "probe__every": 0} | settings
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    trainer = distfa.Trainer(net, engine="serial", run_dir=run_dir, optimizer=optimizer, ledger__every=0, **settings)
    trainer.fit(loader, test)
    return trainer


def torchs_loop(net, loader, epochs=EPOCHS, max_steps=None):
    optimizer, steps = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), 0
    for _ in range(epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
            steps += 1
            if steps == max_steps:
                return net
    return net


class Sorted(Sampler):
    """A batch sampler of one's own: batches of several sizes, another number of them in each epoch."""

    def __init__(self):
        self.epoch = 0

    def __iter__(self):
        self.epoch += 1
        yield from np.array_split(np.arange(ROWS)[:: self.epoch], 3 + self.epoch)


class Lines(IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield from zip(X, Y, strict=True)


class Keyed(Dataset):
    """Samples by other keys than numbers."""

    def __getitem__(self, key):
        return X[int(key[1:])], Y[int(key[1:])]


class OneByOne(Dataset):
    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return X[index], int(Y[index])


def doubled(samples):
    """A collate_fn that makes other rows than it gets."""
    x, y = default_collate(samples)
    return torch.cat([x, -x]), torch.cat([y, y])


def without_first(samples):
    x, y = default_collate(samples)
    return x[y > 0], y[y > 0]


LOADERS = {
    "as they come": lambda: DataLoader(ALL, batch_size=7),
    "seeded": lambda: DataLoader(ALL, batch_size=7, shuffle=True, generator=g()),
    "seeded, one by one": lambda: DataLoader(OneByOne(), batch_size=7, shuffle=True, generator=g()),
    "drop_last": lambda: DataLoader(ALL, batch_size=7, shuffle=True, generator=g(), drop_last=True),
    "num_samples": lambda: DataLoader(ALL, batch_size=7, sampler=RandomSampler(ALL, num_samples=20, generator=g())),
    "more than all": lambda: DataLoader(ALL, batch_size=7, sampler=RandomSampler(ALL, num_samples=99, generator=g())),
    "replacement": lambda: DataLoader(
        ALL, batch_size=7, sampler=RandomSampler(ALL, replacement=True, num_samples=30, generator=g())
    ),
    "weighted": lambda: DataLoader(
        OneByOne(), batch_size=7, sampler=WeightedRandomSampler(np.arange(ROWS) + 1.0, 30, generator=g())
    ),
    "subset sampler": lambda: DataLoader(ALL, batch_size=7, sampler=SubsetRandomSampler(range(9, 30), generator=g())),
    "batch sampler": lambda: DataLoader(ALL, batch_sampler=BatchSampler(SequentialSampler(ALL), 11, drop_last=False)),
    "batches of several sizes": lambda: DataLoader(ALL, batch_sampler=Sorted()),
    "keys": lambda: DataLoader(Keyed(), batch_size=7, sampler=[f"n{i}" for i in range(30)]),
    "subset": lambda: DataLoader(Subset(OneByOne(), range(5, 40)), batch_size=7, shuffle=True, generator=g()),
    "concatenated": lambda: DataLoader(
        ConcatDataset([Subset(OneByOne(), range(9)), OneByOne()]), batch_size=7, shuffle=True, generator=g()
    ),
    "collate": lambda: DataLoader(ALL, batch_size=7, shuffle=True, generator=g(), collate_fn=doubled),
    "collate that drops": lambda: DataLoader(ALL, batch_size=7, shuffle=True, generator=g(), collate_fn=without_first),
    "whole batches": lambda: DataLoader(TensorDataset(X[:40].view(8, 5, 6), Y[:40].view(8, 5)), batch_size=None),
    "stream": lambda: DataLoader(Lines(), batch_size=7),
    "workers that stay": lambda: DataLoader(
        ALL, batch_size=7, shuffle=True, generator=g(), num_workers=1, persistent_workers=True
    ),
}


def assert_same(mine, theirs):
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("made", LOADERS)
def test_a_batch_is_what_the_loader_makes(tmp_path, made):
    net = model()
    ours(net, LOADERS[made](), tmp_path / "run")
    assert_same(net, torchs_loop(model(), LOADERS[made]()))


@pytest.mark.parametrize("made", ["seeded", "subset", "batches of several sizes", "collate", "stream"])
def test_max_steps_ends_within_an_epoch_as_torchs_own_loop_would(tmp_path, made):
    net = model()
    ours(net, LOADERS[made](), tmp_path / "run", max_steps=9)
    assert_same(net, torchs_loop(model(), LOADERS[made](), max_steps=9))


def test_an_endless_stream_ends_with_max_steps(tmp_path):
    """It was read for ever."""
    net = model()
    ours(net, DataLoader(Endless(), batch_size=7), tmp_path / "run", max_steps=20)
    assert_same(net, torchs_loop(model(), DataLoader(Endless(), batch_size=7), max_steps=20))


def test_a_second_fit_goes_on_with_the_loaders_generator(tmp_path):
    loader, peer = LOADERS["seeded"](), LOADERS["seeded"]()
    net, theirs = model(), model()
    trainer = ours(net, loader, tmp_path / "run", epochs=2)
    trainer.fit(loader)
    torchs_loop(torchs_loop(theirs, peer, epochs=2), peer, epochs=2)
    assert_same(net, theirs)


@pytest.mark.parametrize("made", ["seeded", "weighted", "batches of several sizes", "collate"])
def test_a_run_that_goes_on_reads_what_it_would_have_read(tmp_path, made):
    """In the process that was interrupted a generator is no longer where it was; a new one may be seeded otherwise."""

    class Interrupt(distfa.Callback):
        def on_step(self, at):
            if at.step == 8:
                raise KeyboardInterrupt

    settings = {"rule": "bp", "engine": "serial", "dtype": "float64", "epochs": EPOCHS, "checkpoint__every": 3}
    settings |= {"checkpoint__seconds": 0, "init": "given"}
    whole, loader = model(), LOADERS[made]()
    distfa.Trainer(whole, run_dir=tmp_path / "whole", **settings).fit(LOADERS[made]())
    net = model()
    with pytest.raises(KeyboardInterrupt):
        distfa.Trainer(net, run_dir=tmp_path / "run", callbacks=Interrupt(), **settings).fit(loader)
    net = model()
    distfa.Trainer(net, run_dir=tmp_path / "run", **settings).fit(loader, resume=tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_shuffle_without_a_generator_is_drawn_from_the_runs_seed(tmp_path, drop_last):
    weights = []
    for number in range(2):
        torch.manual_seed(number)
        net = model()
        loader = DataLoader(ALL, batch_size=7, shuffle=True, drop_last=drop_last)
        trainer = ours(net, loader, tmp_path / f"{number}")
        assert trainer.result.steps == EPOCHS * (6 if drop_last else 7)
        weights.append(net.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_another_batch_size_beside_a_loader_is_refused(tmp_path):
    with pytest.raises(SpecError, match="batch_size is 32, but the loader makes batches of 7;"):
        ours(model(), LOADERS["seeded"](), tmp_path / "run", batch_size=32)
    assert not (tmp_path / "run").exists()
    ours(model(), LOADERS["seeded"](), tmp_path / "run", batch_size=7)


@pytest.mark.parametrize(
    "test",
    [
        DataLoader(ALL, batch_size=10, sampler=SubsetRandomSampler(range(32, 40))),
        DataLoader(OneByOne(), batch_size=3, sampler=SubsetRandomSampler(range(32, 40))),
        DataLoader(ALL, batch_sampler=[[32, 33, 34], [35, 36, 37, 38, 39]]),
        DataLoader(Subset(ALL, range(32, 41)), batch_size=8, drop_last=True),
        DataLoader(Subset(OneByOne(), range(32, 40)), batch_size=10, collate_fn=lambda s: default_collate(s)),
    ],
)
def test_a_validation_loader_scores_the_rows_that_it_gives_and_no_others(tmp_path, test):
    net = model()
    trainer = ours(net, DataLoader(ALL, batch_size=8, sampler=SubsetRandomSampler(range(32))), tmp_path / "run", test)
    right = (net(X[32:40]).argmax(1) == Y[32:40]).double().mean().item()
    assert trainer.result.test_accuracy == pytest.approx(right)
    found = trainer.evaluate(test)
    assert (found.rows, found.accuracy) == (8, pytest.approx(right))


def test_a_sampler_without_samples_and_one_without_an_end_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="epoch 1 of the training data has no batch"):
        ours(model(), DataLoader(ALL, batch_size=ROWS + 1, drop_last=True), tmp_path / "run")
    monkeypatch.setattr("distfa.intake.sampling.MOST_ROWS", 1000)
    monkeypatch.setattr("distfa.intake.loaders.MOST_ROWS", 1000)
    monkeypatch.setattr("distfa.intake.given.MOST_ROWS", 1000)
    with pytest.raises(DataError, match="the loader has yielded 1,0.. samples .*set max_steps if it is endless"):
        ours(model(), DataLoader(Endless(), batch_size=7), tmp_path / "run")
    with pytest.raises(DataError, match="have not ended; set max_steps if they are endless"):
        ours(model(), ((X, Y) for _ in iter(int, 1)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Drawing(Dataset):
    """Augments with a generator of its own, as albumentations does."""

    def __init__(self, of):
        self.of = of
        if of == "closure":
            rng = np.random.default_rng(3)
            self.noise = lambda: rng.standard_normal(6)
        elif of == "numpy":
            self.rng = np.random.default_rng(3)
            self.noise = lambda: self.rng.standard_normal(6)
        elif of == "torch":
            self.rng = torch.Generator().manual_seed(3)
            self.noise = lambda: torch.randn(6, generator=self.rng).numpy()
        else:
            self.noise = lambda: np.frombuffer(__import__("os").urandom(48), np.uint64) / 2**64

    def __len__(self):
        return ROWS

    def __getitem__(self, index):
        return X[index] + 0.1 * torch.from_numpy(np.asarray(self.noise(), np.float64)), int(Y[index])


@pytest.mark.parametrize("of", ["numpy", "torch", "closure", "os"])
def test_samples_with_a_generator_of_their_own_are_drawn_and_audited(tmp_path, of):
    """The final check drew them again: "the weights are not to be trusted", after the whole training."""
    weights = []
    for number in range(2):
        net, samples = model(), Drawing(of)
        ours(net, DataLoader(samples, batch_size=7, shuffle=True), tmp_path / f"{number}", probe__every=number)
        weights.append(net.state_dict())
    same = all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert same == (of != "os")  # whatever reads them in between


def test_a_sample_that_a_sampler_gives_again_is_drawn_anew():
    order = GivenOrder.of([[[3, 3, 1]], [[1, 1, 3]]])
    rows = distfa.data.stream.stream_samples(Drawing("numpy"), range(4), None, order, seed=0).train_x
    found = rows[np.arange(6)]
    assert np.array_equal(found, rows[np.arange(6)])
    assert len(np.unique(found, axis=0)) == 6


def test_an_order_is_kept_whole_in_a_file():
    order = GivenOrder.of([[[4, 0], [2]], [[1, 1, 1, 1]]])
    again = GivenOrder.from_bytes(order.to_bytes())
    assert (again.digest, again.batches) == (order.digest, order.batches)
