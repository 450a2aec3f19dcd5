"""Points on a line and in a plane, and the models that are drawn whole over them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tasks.datasets.lowdim as lowdim
import tasks.models.lowdim  # noqa: F401
from tasks.api import DATASETS, MODELS


@pytest.mark.parametrize(("name", "dimensions", "points"), [("points1d", 1, 140), ("points2d", 2, 264)])
def test_points_are_images_of_one_pixel_with_a_channel_for_each_coordinate(
    name: str, dimensions: int, points: int
) -> None:
    data = DATASETS[name].load(None)
    assert data.train.images.shape == (points, dimensions, 1, 1)
    assert data.train.images.dtype == torch.uint8
    assert data.digest() == DATASETS[name].load(None).digest()


@pytest.mark.parametrize("name", ["points1d", "points2d"])
def test_the_test_half_is_an_even_grid_from_end_to_end(name: str) -> None:
    places = lowdim.coordinates(DATASETS[name].load(None).test.images)
    dimensions = places.shape[1]
    side = lowdim.GRID_SIDE[dimensions]
    assert len(places) == side**dimensions == len(np.unique(places, axis=0))
    axis = places.reshape(*[side] * dimensions, dimensions)[(slice(None), *[0] * (dimensions - 1), 0)]
    assert axis[0] == -1 and axis[-1] == 1
    assert np.ptp(np.diff(axis)) < 0.02  # bytes are rounded


def test_what_can_be_forgotten_is_finer_than_the_classes() -> None:
    for name, groups in (("points1d", ("steep", "flat")), ("points2d", ("edge", "core"))):
        data = DATASETS[name].load(None)
        assert data.classes == ("left", "right") and data.groups[2:] == groups
        for number in (2, 3):
            for half in (data.train, data.test):
                assert len(half.labels[half.groups == number].unique()) == 1


def test_the_edge_lies_among_the_other_class_and_the_core_among_its_own() -> None:
    data = DATASETS["points2d"].load(None)
    places, groups = lowdim.coordinates(data.train.images), data.train.groups.numpy()
    centres = [places[groups == number].mean(axis=0) for number in range(4)]
    to_left, to_right = (
        [float(np.linalg.norm(centres[number] - centres[side])) for number in (2, 3)] for side in (0, 1)
    )
    assert to_right[0] < to_left[0]
    assert to_left[1] < to_right[1]


def test_a_logistic_model_of_two_classes_is_a_sigmoid() -> None:
    model = MODELS["logistic"].build(2, (1, 1, 1))
    x = torch.linspace(-1, 1, 5)[:, None, None, None]
    weight, bias = (p.detach() for p in model.parameters())
    slope, offset = weight[1, 0] - weight[0, 0], bias[1] - bias[0]
    assert torch.allclose(model(x).softmax(1)[:, 1], torch.sigmoid(slope * x.flatten() + offset), atol=1e-6)


@pytest.mark.parametrize(("name", "parameters"), [("logistic", 2 * 2 + 2), ("mlp_tanh", 96 + 1056 + 66)])
def test_the_models_have_the_parameters_of_their_layers(name: str, parameters: int) -> None:
    model = MODELS[name].build(2, (2, 1, 1))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(3, 2, 1, 1)).shape == (3, 2)
