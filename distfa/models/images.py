"""Convolutional networks, for samples (channels, height, width)."""

from __future__ import annotations

from torch import Tensor, nn

from distfa.errors import ModelError

Shape = tuple[int, ...]
_CHANNELS = (1, 3, 4)  # channels of an image, if they are its last axis


def lenet(shape: Shape, outputs: int) -> nn.Sequential:
    """LeNet-5 with ReLU and max pooling, as it is used today.

    Two 5x5 convolutions to 6 and 16 channels, each with a 2x2 pool, then 120, 84 and ``outputs`` units. The
    first convolution keeps the image's size, as the original did by padding 28x28 to 32x32. Below 12x12 the second does
    the same, since nothing would be left otherwise.

    Args:
        shape: Of one sample, at least 4x4.
        outputs: Number of classes.

    Raises:
        ModelError: Not an image, or too small a one.

    Source: Y. LeCun et al., Gradient-based learning applied to document recognition, 1998.
    """
    channels, height, width = image("lenet", shape, least=4)
    padding = 0 if min(height, width) >= 12 else 2
    left = [(size // 2 + 2 * padding - 4) // 2 for size in (height, width)]
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5, padding=padding),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * left[0] * left[1], 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, outputs),
    )


def convnet(shape: Shape, outputs: int) -> nn.Sequential:
    """A small CIFAR net: three 3x3 convolutions to 32, 64 and 128 channels, then 256 and ``outputs`` units.

    Each convolution is followed by BatchNorm (so it needs no bias), ReLU and a 2x2 pool.

    Args:
        shape: Of one sample, at least 8x8.
        outputs: Number of classes.

    Raises:
        ModelError: Not an image, or too small a one.
    """
    channels, height, width = image("convnet", shape, least=8)
    modules: list[nn.Module] = []
    for before, after in ((channels, 32), (32, 64), (64, 128)):
        modules += [*_conv_norm(before, after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(
        *modules,
        nn.Flatten(),
        nn.Linear(128 * (height // 8) * (width // 8), 256),
        nn.ReLU(),
        nn.Linear(256, outputs),
    )


class ResidualBlock(nn.Module):
    """relu(branch(x) + shortcut(x)): two 3x3 convolutions with BatchNorm, added to the identity.

    Where the shape changes, the shortcut is a 1x1 convolution with BatchNorm (option B of the paper).

    Args:
        before: Channels of the input.
        after: Channels of the output.
        stride: 2 halves height and width.

    Source: K. He et al., Deep residual learning for image recognition, 2016.
    """

    def __init__(self, before: int, after: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv_norm(before, after, stride=stride), nn.ReLU(), *_conv_norm(after, after))
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*_conv_norm(before, after, kernel=1, stride=stride))
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, before, height, width) to (n, after, height / stride, width / stride), rounded up."""
        out: Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return out


def resnet20(shape: Shape, outputs: int) -> nn.Sequential:
    """The CIFAR ResNet of 20 layers: a convolution, nine blocks of 16, 32 and 64 channels, a mean, Linear.

    Args:
        shape: Of one sample, at least 4x4.
        outputs: Number of classes.

    Raises:
        ModelError: Not an image, or too small a one.

    Source: K. He et al., Deep residual learning for image recognition, 2016, section 4.2.
    """
    channels, _, _ = image("resnet20", shape, least=4)
    blocks = [
        ResidualBlock(before, after, stride=1 if before == after else 2)
        for before, after in ((16, 16), (16, 16), (16, 16), (16, 32), (32, 32), (32, 32), (32, 64), (64, 64), (64, 64))
    ]
    return nn.Sequential(
        *_conv_norm(channels, 16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, outputs),
    )


def _conv_norm(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(before, after, kernel, stride=stride, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(after)


def image(model: str, shape: Shape, *, least: int) -> tuple[int, int, int]:
    """(channels, height, width) of samples.

    Raises:
        ModelError: They are no images of at least this height and width.
    """
    last = len(shape) == 3 and shape[-1] in _CHANNELS and shape[0] > max(_CHANNELS)
    if len(shape) != 3 or min(shape[1:]) < least or last:
        way = "save them as x.transpose(0, 3, 1, 2)" if last else "reshape them"
        raise ModelError(
            f"{model} reads images (channels, height, width) of at least {least}x{least}, but samples have shape "
            f"{tuple(shape)}; {way}, or choose mlp, which reads any shape"
        )
    channels, height, width = shape
    return channels, height, width
