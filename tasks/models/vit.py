"""Vision transformers with patches of 16 pixels, as timm builds them: ViT-B/16 and ViT-L/16.

Source: A. Dosovitskiy et al., An Image is Worth 16×16 Words, https://arxiv.org/abs/2010.11929. The classifier
reads the class token after the last layer norm, dropout is 0 everywhere. A recipe says which ImageNet weights
they start from (`pretrained`); built here, they are random. Layer norms have timm's ε = 1e-6.

Parameters at 3×224×224: ViT-B/16 has 85,798,656 + 769·C, ViT-L/16 303,301,632 + 1025·C for C classes.
"""

from __future__ import annotations

from torch import nn

from tasks.api import model

PATCH = 16  # pixels
SIZES = {"vit_b16": (768, 12, 12), "vit_l16": (1024, 24, 16)}  # width, depth, heads


def transformer(name: str, num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """The network of a row of `SIZES`; ValueError where the images are no square of whole patches."""
    from timm.models.vision_transformer import VisionTransformer

    channels, height, width = input_shape
    if height != width or not height or height % PATCH:
        raise ValueError(
            f"{name}: found images of {height}×{width} pixels, expected a square side that is a multiple of "
            f"{PATCH}; take a recipe with size = 224, or choose vit_mini"
        )
    embed_dim, depth, heads = SIZES[name]
    net: nn.Module = VisionTransformer(
        img_size=height,
        patch_size=PATCH,
        in_chans=channels,
        num_classes=num_classes,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=heads,
    )
    return net


@model("vit_b16", family="vit", source="timm VisionTransformer: width 768, depth 12, 12 heads", side=32)
def vit_b16(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """ViT-B/16; 86,567,656 parameters with 1000 classes at 3×224×224."""
    return transformer("vit_b16", num_classes, input_shape)


@model("vit_l16", family="vit", source="timm VisionTransformer: width 1024, depth 24, 16 heads", side=32)
def vit_l16(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """ViT-L/16; 304,326,632 parameters with 1000 classes at 3×224×224."""
    return transformer("vit_l16", num_classes, input_shape)
