"""Small relatives of VGG, ResNet and ViT for images of 8 to 64 pixels: trained within minutes on one core.

The rows below are the variants; an image takes the row of the largest listed side that is not above its own.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

from torch import nn

from tasks.api import model

VGG_ROWS: dict[int, list[str | int]] = {  # side in pixels: widths of 3×3 convolutions, M halves the side
    8: [16, "M", 32, "M"],
    16: [16, "M", 32, "M", 64, "M"],
    32: [16, "M", 32, "M", 64, "M", 128, "M"],
}
VIT_PATCH = {8: 2, 16: 4, 32: 4}  # side in pixels: side of a patch
RESNET_WIDTHS = (16, 32, 64, 128)  # of the four stages: a quarter of those of ResNet-18
LAST_MAP = 2  # side in pixels of the last feature map of each VGG row at its listed side
HIDDEN = 128


def row_side(name: str, input_shape: tuple[int, int, int]) -> int:
    """The listed side whose row fits a square image; ValueError where none does."""
    _, height, width = input_shape
    if height != width or height % 4 or not 8 <= height <= 64:
        raise ValueError(
            f"{name}: found images of {height}×{width} pixels, expected a square side from 8 to 64 that is "
            "a multiple of 4; resize the images or choose another model"
        )
    return max(side for side in VGG_ROWS if side <= height)


@model(
    "vgg_mini", family="vgg", source="torchvision.models.vgg.make_layers, width 16, one hidden layer of 128"
)
def vgg_mini(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Convolutions of the fitting row → 2×2 map → 128 → dropout 0.5 → classes; 22,602 parameters at 1×8×8."""
    from torchvision.models.vgg import make_layers

    side = row_side("vgg_mini", input_shape)
    widths = VGG_ROWS[side]
    features = make_layers(widths)
    if input_shape[0] != 3:  # make_layers always starts from RGB
        features[0] = nn.Conv2d(input_shape[0], int(widths[0]), kernel_size=3, padding=1)
    # At a listed side pooling is the identity; it is left out, as its CUDA backward is not deterministic.
    pool = nn.Identity() if side == input_shape[1] else nn.AdaptiveAvgPool2d(LAST_MAP)
    classifier = nn.Sequential(
        nn.Linear(int(widths[-2]) * LAST_MAP**2, HIDDEN),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(HIDDEN, num_classes),
    )
    return nn.Sequential(
        OrderedDict(features=features, pool=pool, flatten=nn.Flatten(), classifier=classifier)
    )


@model("resnet_mini", family="resnet", source="torchvision BasicBlock, ResNet-18 a quarter as wide")
def resnet_mini(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-18 with the CIFAR stem, a quarter as wide; 701,466 parameters with 3 channels and 10 classes."""
    row_side("resnet_mini", input_shape)
    first, *_, last = RESNET_WIDTHS
    net = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(input_shape[0], first, kernel_size=3, padding=1, bias=False),
            bn1=nn.BatchNorm2d(first),
            relu=nn.ReLU(inplace=True),
            layer1=_stage(first, first, stride=1),
            **{f"layer{n}": _stage(*pair, stride=2) for n, pair in enumerate(pairwise(RESNET_WIDTHS), 2)},
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(last, num_classes),
        )
    )
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return net


def _stage(before: int, width: int, stride: int) -> nn.Module:
    """Two blocks; the first one's shortcut is a 1×1 convolution where the shape changes."""
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride > 1 or before != width:
        convolution = nn.Conv2d(before, width, kernel_size=1, stride=stride, bias=False)
        shortcut = nn.Sequential(convolution, nn.BatchNorm2d(width))
    return nn.Sequential(BasicBlock(before, width, stride, shortcut), BasicBlock(width, width))


@model("vit_mini", family="vit", source="timm VisionTransformer, width 32, depth 2, 4 heads")
def vit_mini(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """Transformer of width 32 and depth 2 on patches of 2 or 4 pixels; 18,218 parameters at 1×8×8."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=input_shape[1],
        patch_size=VIT_PATCH[row_side("vit_mini", input_shape)],
        in_chans=input_shape[0],
        num_classes=num_classes,
        embed_dim=32,
        depth=2,
        num_heads=4,
        mlp_ratio=2,
    )
