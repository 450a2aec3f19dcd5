"""What a user would otherwise run: the same scores in the plain way of published unlearning code.

A DataLoader over PIL images with torchvision transforms, one walk for each accuracy, and the attack's
probabilities collected image by image, as public code for these benchmarks does. Nothing is slower here than
it has to be for that: no workers, no gradients, and the model is left in eval mode throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

PerChannel = tuple[float, ...]


class PlainVGG11(nn.Module):
    """torchvision's VGG-11 and a linear layer, with the 7×7 pooling that repeats a 1×1 map 49 times."""

    def __init__(self, classes: int) -> None:
        from torchvision.models import vgg11

        super().__init__()
        net = vgg11(weights=None)
        self.features, self.avgpool, self.classifier = net.features, net.avgpool, net.classifier
        self.head = nn.Linear(1000, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.classifier(self.avgpool(self.features(x)).flatten(1)))
        return logits


def plain(model: nn.Module) -> nn.Module:
    """The same weights in a plain network: ours folds a layer of VGG-11, the other models are plain."""
    if type(model).__name__ != "VGG11":
        return model
    with torch.device("meta"):
        twin = PlainVGG11(model.head.out_features)  # type: ignore[union-attr,arg-type]
    twin.load_state_dict(model.state_dict(), assign=True)
    return twin.eval()


class Images(Dataset[tuple[Tensor, int]]):
    """CIFAR-like images, decoded and transformed one by one."""

    def __init__(self, images: NDArray[np.uint8], labels: Sequence[int], transform: Callable[..., Tensor]):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


@dataclass(frozen=True)
class Halves:
    """The data set of one forgotten class, as loaders want it."""

    train: Images
    test: Images
    forgotten: int

    def parts(self) -> dict[str, Dataset[tuple[Tensor, int]]]:
        """Forgotten and retained images of both halves, and the whole test half."""
        found: dict[str, Dataset[tuple[Tensor, int]]] = {"test": self.test}
        for name, half in (("train", self.train), ("test", self.test)):
            hit = np.asarray(half.labels) == self.forgotten
            found[f"forget_{name}"] = Subset(half, np.flatnonzero(hit).tolist())
            found[f"retain_{name}"] = Subset(half, np.flatnonzero(~hit).tolist())
        return found


def halves(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    forgotten: int,
    mean: PerChannel,
    std: PerChannel,
    side: int,
) -> Halves:
    """Loadable halves from images (N, C, H, W) uint8 and labels (N,); resized only where `side` differs."""
    steps: list[Callable[..., Tensor]] = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    if train[0].shape[-1] != side:
        steps.append(transforms.Resize(side, antialias=False))
    transform = transforms.Compose(steps)
    made = [
        Images(images.permute(0, 2, 3, 1).contiguous().numpy().squeeze(), labels.tolist(), transform)
        for images, labels in (train, test)
    ]
    return Halves(made[0], made[1], forgotten)


@torch.no_grad()
def accuracy(model: nn.Module, dataset: Dataset[tuple[Tensor, int]]) -> float:
    """Correct predictions over samples, in batches of 128."""
    right = count = 0
    for x, y in DataLoader(dataset, batch_size=128):
        right += int((model(x).argmax(1) == y).sum())
        count += len(y)
    return right / count


@torch.no_grad()
def entropies(model: nn.Module, dataset: Dataset[tuple[Tensor, int]]) -> NDArray[np.float64]:
    """Entropy of each prediction, images one by one."""
    found = torch.cat([model(x).softmax(1) for x, _ in DataLoader(dataset, batch_size=1)])  # (N, K)
    logs = torch.where(found > 0, found, 1.0).log()
    return -(found * logs).sum(1).double().numpy()


def member_share(model: nn.Module, parts: dict[str, Dataset[tuple[Tensor, int]]]) -> float:
    """The attack: told retained training from test images, what does it call the forgotten ones?"""
    members, others = entropies(model, parts["retain_train"]), entropies(model, parts["test"])
    judged = entropies(model, parts["forget_train"])
    features = np.concatenate([members, others])[:, None]
    is_member = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
    # C = 1 of the two-class multinomial form, which scikit-learn no longer has, is C = 2 of the binary one
    attack = LogisticRegression(C=2, class_weight="balanced").fit(features, is_member)
    return float(attack.predict(judged[:, None]).mean())


def scores(model: nn.Module, data: Halves) -> dict[str, float]:
    """Three accuracies and the attack."""
    model.eval()
    parts = data.parts()
    return {
        "forget_acc": accuracy(model, parts["forget_test"]),
        "retain_acc": accuracy(model, parts["retain_test"]),
        "test_acc": accuracy(model, parts["test"]),
        "mia": member_share(model, parts),
    }


def loading(data: Halves) -> int:
    """The walks of `scores` without a model, to tell how much of it is loading images."""
    parts = data.parts()
    walks = [(parts[name], 128) for name in ("forget_test", "retain_test", "test")]
    walks += [(parts[name], 1) for name in ("retain_train", "test", "forget_train")]
    return sum(len(y) for dataset, size in walks for _, y in DataLoader(dataset, batch_size=size))


def jit_step(
    model: nn.Module, x: Tensor, copies: int, sigma: float, lr: float, noise: torch.Generator
) -> None:
    """One step of JiT on the batch x (B, C, H, W) by plain autograd, one forward pass for each noisy copy."""
    sgd = torch.optim.SGD(model.parameters(), lr)
    z = model(x)  # (B, K)
    loss = torch.zeros(())
    for _ in range(copies):
        near = x + sigma * torch.randn(x.shape, generator=noise)
        with torch.no_grad():
            z_near = model(near)
        loss = loss + ((z - z_near).norm(dim=1) / (x - near).flatten(1).norm(dim=1)).mean()
    (loss / copies).backward()
    sgd.step()
