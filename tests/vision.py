"""torchvision's networks, narrow: its own classes and blocks, with fewer channels and no dropout."""

import torch
from torch import nn

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its operators are those of another build of torch; its networks need none of them
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from torchvision.models import convnext, mobilenetv3, resnet, vgg, vision_transformer


class NarrowResNet(resnet.ResNet):
    def __init__(self, block, blocks):
        super().__init__(block, blocks, num_classes=5)
        self.fc = nn.Linear(64 * block.expansion, 5)

    def _make_layer(self, block, planes, *rest, **more):
        return super()._make_layer(block, planes // 8, *rest, **more)


def vgg11_bn():
    widths = [8, "M", 8, "M", 16, 16, "M", 16, 16, "M", 16, 16, "M"]
    model = vgg.VGG(vgg.make_layers(widths, batch_norm=True), num_classes=5, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(1)
    model.classifier = nn.Sequential(
        *(nn.Linear(16, 24), nn.ReLU(True), nn.Identity()),
        *(nn.Linear(24, 24), nn.ReLU(True), nn.Identity()),
        nn.Linear(24, 5),
    )
    return model


def mobilenet_v3_small():
    setting, last = mobilenetv3._mobilenet_v3_conf("mobilenet_v3_small", width_mult=0.25)
    return mobilenetv3.MobileNetV3(setting, last, num_classes=5, dropout=0.0)


def convnext_tiny():
    widths, blocks = (8, 8, 16, 16, 16), (3, 3, 9, 3)
    setting = [
        convnext.CNBlockConfig(width, above if stage < 3 else None, count)
        for stage, (width, above, count) in enumerate(zip(widths[:-1], widths[1:], blocks, strict=True))
    ]
    return convnext.ConvNeXt(setting, num_classes=5)


def vit_b_16():
    return vision_transformer.VisionTransformer(32, 16, 12, 2, 16, 32, num_classes=5)


NARROW = {
    "resnet18": lambda: NarrowResNet(resnet.BasicBlock, [2, 2, 2, 2]),
    "resnet50": lambda: NarrowResNet(resnet.Bottleneck, [3, 4, 6, 3]),
    "vgg11_bn": vgg11_bn,
    "mobilenet_v3_small": mobilenet_v3_small,
    "convnext_tiny": convnext_tiny,
    "vit_b_16": vit_b_16,
}
