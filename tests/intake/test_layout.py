"""Images in any usual layout: what a model is fed is what it reads, or one clear error."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import distfa
from distfa.errors import DataError

SHAPE = (3, 5, 6)


def net(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(120, 2))


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 40)
    return (rng.standard_normal((40, *SHAPE)) + y[:, None, None, None]).astype(np.float32), y


@pytest.fixture
def trained(tmp_path):
    count = iter(range(9))

    def fit(model, *data):
        run_dir = str(tmp_path / str(next(count)))
        trainer = distfa.Trainer(model, engine="serial", epochs=2, batch_size=8, run_dir=run_dir)
        trainer.fit(*data)
        return trainer

    return fit


def test_channels_that_come_last_are_moved_to_the_front_and_all_is_as_if_they_had_been_there(images, trained, caplog):
    x, y = images
    last = x.transpose(0, 2, 3, 1)
    first, turned = trained(net(), (x, y), (x, y)), trained(net(), (last, y), (last, y))
    assert "samples have shape (5, 6, 3): their channels are moved to the front, for 0 Conv2d" in caplog.text
    assert all(torch.equal(p, q) for p, q in zip(first.model.parameters(), turned.model.parameters(), strict=True))
    assert first.result.test_loss == turned.result.test_loss
    for given in (x, last, x.reshape(40, -1), torch.from_numpy(last)):
        assert torch.equal(turned.predict(given), first.predict(x))
    assert turned.evaluate((last, y)) == first.evaluate((x, y))


def test_the_scale_of_a_data_set_turns_with_its_samples(images, trained):
    import dataclasses

    x, y = images
    mean = np.arange(90.0).reshape(SHAPE)
    plain = distfa.data.from_arrays((x, y), (x, y))
    first = dataclasses.replace(plain, mean=mean.ravel(), std=mean.ravel() + 1)
    other = distfa.data.from_arrays((x.transpose(0, 2, 3, 1), y), (x.transpose(0, 2, 3, 1), y))
    scale = mean.transpose(1, 2, 0).ravel()
    last = dataclasses.replace(other, mean=scale, std=scale + 1)
    assert trained(net(), first).result.test_loss == trained(net(), last).result.test_loss


def test_gray_images_may_lack_their_channel(images, trained):
    x, y = images
    gray = x[:, 0]
    whole, lacking = trained(net(1), (gray[:, None], y)), trained(net(1), (gray, y))
    assert torch.equal(lacking.predict(gray), whole.predict(gray[:, None]))


class Last(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x.transpose(0, 2, 3, 1), y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


def test_samples_that_are_made_as_they_are_read_must_be_made_right(images, trained):
    with pytest.raises(DataError, match=r"have __getitem__ return x.permute\(2, 0, 1\)"):
        trained(net(), Last(*images))


def test_predict_refuses_another_shape_than_that_of_training(images, trained):
    trainer = trained(net(), images)
    with pytest.raises(DataError, match=r"samples have shape \(3, 6, 5\), but the model was trained on \(3, 5, 6\)"):
        trainer.predict(images[0].transpose(0, 1, 3, 2))
