"""Small relatives of VGG and ViT for images of 8 to 64 pixels: trained in seconds on one core.

The rows below are the variants; an image takes the row of the largest listed side that is not above its own.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from tasks.api import model

VGG_ROWS: dict[int, list[str | int]] = {  # side in pixels: widths of 3×3 convolutions, M halves the side
    8: [16, "M", 32, "M"],
    16: [16, "M", 32, "M", 64, "M"],
    32: [16, "M", 32, "M", 64, "M", 128, "M"],
}
VIT_PATCH = {8: 2, 16: 4, 32: 4}  # side in pixels: side of a patch
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
