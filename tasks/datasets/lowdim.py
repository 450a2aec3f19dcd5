"""Points on a line and in a plane: data whose models can be drawn whole.

A point is an image of one pixel with a channel for each coordinate: byte b stands for the coordinate
b / 127.5 − 1, from −1 to 1. The test half is no sample but a grid over the whole line or plane, so that the
outputs stored with every run are a map of its model; labels of the grid are what the two broad clusters say.

Two classes, each with a broad cluster, and two small groups that can be forgotten (scenario sub_class): one
where a model must bend to fit it (`edge`, `steep`), one deep among its like (`core`, `flat`). So do Foster et
al., "An Information Theoretic Approach to Machine Unlearning", TMLR 2025, in Figures 2 and 3; their own
points are not published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tasks.api import Data, ImageSet, Indices, dataset

Coordinates = NDArray[np.floating]
SOURCE = "drawn from normal distributions with a fixed seed"
CLASSES = ("left", "right")
GRID_SIDE = {1: 256, 2: 64}  # points along each axis of the test half, by number of coordinates
DRAW_SEED = 2402  # part of the data set: another seed would make it another one


@dataclass(frozen=True)
class Cluster:
    """One normally distributed group of points."""

    name: str
    label: int
    count: int
    centre: tuple[float, ...]
    spread: tuple[float, ...]  # standard deviation of each coordinate


LINE = (
    Cluster("left", 0, 60, (-0.45,), (0.22,)),
    Cluster("right", 1, 60, (0.45,), (0.22,)),
    Cluster("steep", 1, 10, (-0.20,), (0.03,)),
    Cluster("flat", 1, 10, (0.80,), (0.03,)),
)
PLANE = (
    Cluster("left", 0, 120, (-0.45, 0.0), (0.20, 0.38)),
    Cluster("right", 1, 120, (0.45, 0.0), (0.20, 0.38)),
    Cluster("edge", 0, 12, (0.22, 0.30), (0.05, 0.05)),
    Cluster("core", 0, 12, (-0.60, -0.30), (0.05, 0.05)),
)


@dataset("points1d", source=SOURCE, groups=tuple(c.name for c in LINE), needs_folder=False, classes=CLASSES)
def points1d(folder: Path | None = None) -> Data:
    """140 training points (N, 1, 1, 1) and a grid of 256; `folder` is not used."""
    return _load(LINE)


@dataset("points2d", source=SOURCE, groups=tuple(c.name for c in PLANE), needs_folder=False, classes=CLASSES)
def points2d(folder: Path | None = None) -> Data:
    """264 training points (N, 2, 1, 1) and a grid of 64×64, the first coordinate the slower one."""
    return _load(PLANE)


def coordinates(images: torch.Tensor) -> Coordinates:
    """Where the points of images (N, D, 1, 1) uint8 lie: (N, D) float64 in [−1, 1]."""
    return images.cpu().numpy().reshape(len(images), -1) / 127.5 - 1


def _load(clusters: tuple[Cluster, ...]) -> Data:
    drawn = [_draw(cluster, number) for number, cluster in enumerate(clusters)]
    sizes = [cluster.count for cluster in clusters]
    groups = np.repeat(np.arange(len(clusters)), sizes)
    grid = _grid(len(clusters[0].centre))
    names = tuple(cluster.name for cluster in clusters)
    labels = np.array([cluster.label for cluster in clusters])
    on_grid = _groups_of(grid / 127.5 - 1, clusters)
    train = _image_set(np.concatenate(drawn), labels[groups], groups)
    test = _image_set(grid, labels[on_grid], on_grid)
    return Data(train, test, CLASSES, names, official=True)


def _draw(cluster: Cluster, number: int) -> NDArray[np.uint8]:
    """(count, D) bytes."""
    normal = np.random.default_rng([DRAW_SEED, number]).standard_normal((cluster.count, len(cluster.centre)))
    points = np.clip(np.array(cluster.centre) + np.array(cluster.spread) * normal, -1, 1)
    return np.round((points + 1) * 127.5).astype(np.uint8)


def _grid(dimensions: int) -> NDArray[np.uint8]:
    """All points of an even grid, (side^D, D) bytes."""
    side = GRID_SIDE[dimensions]
    axis = np.round(np.linspace(0, 255, side)).astype(np.uint8)
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)


def _groups_of(points: Coordinates, clusters: tuple[Cluster, ...]) -> Indices:
    """The small group whose three standard deviations hold a point, else the nearer broad cluster: (N,)."""
    away = np.stack(
        [np.linalg.norm((points - np.array(c.centre)) / np.array(c.spread), axis=1) for c in clusters]
    )
    groups: Indices = away[:2].argmin(axis=0).astype(np.int64)
    for number in range(2, len(clusters)):
        groups[away[number] <= 3] = number
    return groups


def _image_set(points: NDArray[np.uint8], labels: Indices, groups: Indices) -> ImageSet:
    images = torch.from_numpy(np.ascontiguousarray(points))[:, :, None, None]
    return ImageSet(images, torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(groups))
