"""ResNet-18 with the CIFAR stem: a 3×3 first convolution of stride 1, and no max-pooling after it.

Source: K. He et al., Deep Residual Learning, https://arxiv.org/abs/1512.03385; layers and
initialisation by torchvision.
"""

from __future__ import annotations

from torch import nn

from tasks.api import model

SMALLEST_SIDE = 8  # pixels; three strides of 2 leave a map of 1×1


@model("resnet18", family="resnet", source="torchvision.models.resnet18 with the CIFAR stem", side=32)
def resnet18(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """ResNet-18 for small images; 11,173,962 parameters with 3 channels and 10 classes."""
    from torchvision.models import resnet18 as torchvision_resnet18

    channels, height, width = input_shape
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"resnet18: found images of {height}×{width} pixels, expected sides of at least {SMALLEST_SIDE}; "
            "resize the images or choose another model"
        )
    net: nn.Module = torchvision_resnet18(weights=None, num_classes=num_classes)
    net.conv1 = conv = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    net.maxpool = nn.Identity()
    return net
