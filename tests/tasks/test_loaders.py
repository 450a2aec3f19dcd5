import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import crop, hflip, pad, resize, rotate

from methods.api import Batches
from tasks.augment import PAD, augment, draw, move
from tasks.loaders import TensorBatches, View, batches_of, pixel_range, predict

CPU = torch.device("cpu")
VIEW = View((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def pixels(count=10, channels=3, side=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def numbered(count=10, **options):
    """Batches whose labels are the positions, so that what was walked can be read off."""
    return batches_of(pixels(count), torch.arange(count), VIEW, **options)


def walked(batches):
    return [int(label) for _, y in batches for label in y]


def test_tensor_batches_are_what_methods_call_batches():
    assert isinstance(numbered(), Batches)


def test_a_walk_yields_normalised_float_images_with_their_labels():
    images = pixels()
    x, y = next(iter(batches_of(images, torch.arange(10), VIEW, batch_size=4)))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (VIEW.mean, VIEW.std))
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    torch.testing.assert_close(x, (images[:4] / 255 - mean) / std)
    assert y.tolist() == [0, 1, 2, 3]


def test_the_last_batch_is_short_and_nothing_is_dropped():
    assert [len(y) for _, y in numbered(batch_size=4)] == [4, 4, 2]


def test_a_size_resizes_after_normalisation_without_antialiasing():
    images = pixels()
    plain, _ = next(iter(batches_of(images, torch.arange(10), VIEW)))
    for side in (5, 16):
        sized = View(VIEW.mean, VIEW.std, size=side)
        x, _ = next(iter(batches_of(images, torch.arange(10), sized)))
        expected = resize(plain, [side, side], InterpolationMode.BILINEAR, antialias=False)
        torch.testing.assert_close(x, expected)


def test_one_mean_serves_all_channels():
    x, _ = next(iter(batches_of(pixels(), torch.arange(10), View((0.5,), (0.5,)))))
    torch.testing.assert_close(x, pixels() / 255 * 2 - 1)


def test_means_for_another_number_of_channels_are_refused():
    with pytest.raises(ValueError, match="1 channels but the recipe normalises 3"):
        next(iter(batches_of(pixels(channels=1), torch.arange(10), VIEW)))


def test_shuffling_gives_a_fresh_order_on_every_walk_and_the_same_ones_for_the_same_seed():
    shuffled = numbered(50, seed=3).rebatch(8, shuffle=True)
    first, second = walked(shuffled), walked(shuffled)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))
    again = numbered(50, seed=3).rebatch(8, shuffle=True)
    assert [walked(again), walked(again)] == [first, second]


def test_a_rebatched_walk_draws_from_the_stream_it_came_from():
    stored = numbered(50, seed=3)
    orders = [walked(stored.rebatch(8, shuffle=True)) for _ in range(2)]
    assert orders[0] != orders[1]


def test_relabel_subset_and_join_keep_the_stored_order():
    stored = numbered(10, positions=np.array([7, 3, 5, 1]))
    assert stored.labels().tolist() == [7, 3, 5, 1] == walked(stored)
    part = stored.subset(torch.tensor([2, 0]))
    assert walked(part) == [5, 7]
    assert part.num_examples == 2
    assert walked(part.join(stored)) == [5, 7, 7, 3, 5, 1]
    renamed = stored.relabel(torch.tensor([0, 1, 2, 3]))
    assert walked(renamed) == [0, 1, 2, 3]
    assert torch.equal(next(iter(renamed))[0], next(iter(stored))[0])
    assert stored.rebatch(3, shuffle=True).labels().tolist() == [7, 3, 5, 1]


def test_a_subset_shows_the_images_it_was_asked_for():
    images = pixels()
    part = batches_of(images, torch.arange(10), VIEW, positions=np.array([4, 6, 8])).subset(torch.tensor([2]))
    whole, _ = next(iter(batches_of(images, torch.arange(10), VIEW)))
    torch.testing.assert_close(next(iter(part))[0], whole[8:9])


def test_batches_over_different_images_do_not_join():
    with pytest.raises(ValueError, match="two different image tensors"):
        numbered().join(numbered())


def test_a_label_too_few_is_refused():
    with pytest.raises(ValueError, match="one label for each"):
        numbered().relabel(torch.arange(9))


def test_images_that_are_not_stored_as_bytes_are_refused():
    with pytest.raises(ValueError, match=r"torch\.uint8"):
        batches_of(pixels().float(), torch.arange(10), VIEW)


def test_pixel_range_holds_the_darkest_and_the_brightest_pixel():
    images = torch.stack([torch.zeros(3, 2, 2), torch.full((3, 2, 2), 255)]).to(torch.uint8)
    x, _ = next(iter(batches_of(images, torch.arange(2), VIEW)))
    lowest, highest = pixel_range(VIEW, 3, CPU)
    assert torch.equal(lowest, x[0, :, 0, 0])
    torch.testing.assert_close(highest, x[1, :, 0, 0])
    assert (lowest < highest).all()


def test_pixel_range_of_the_released_statistics_is_the_known_one():
    mean = (0.5070751592371323, 0.48654887331495095, 0.4409178433670343)
    std = (0.2673342858792401, 0.2564384629170883, 0.27615047132568404)
    lowest, highest = pixel_range(View(mean, std), 3, CPU)
    assert lowest.tolist() == pytest.approx([-1.8968, -1.8973, -1.5967], abs=1e-4)
    assert highest.tolist() == pytest.approx([1.8439, 2.0022, 2.0246], abs=1e-4)


def test_normalising_inside_inference_mode_does_not_spoil_later_gradients():
    view = View((0.123, 0.2, 0.3), (0.2, 0.2, 0.2))
    with torch.inference_mode():
        pixel_range(view, 3, CPU)
    x, _ = next(iter(batches_of(pixels(), torch.arange(10), view)))
    weight = torch.ones(3, requires_grad=True)
    (weight.view(3, 1, 1) * x).sum().backward()
    assert weight.grad is not None and torch.isfinite(weight.grad).all()


class Probe(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(192, 4)

    def forward(self, x):
        return self.head(self.drop(x.flatten(1)))


def test_predict_gives_logits_of_the_eval_mode_in_stored_order_whatever_the_batch_size():
    torch.manual_seed(0)
    model, batches = Probe().train(), numbered()
    logits = predict(model, batches)
    whole, _ = next(iter(numbered(batch_size=10)))
    assert logits.dtype == np.float32 and logits.shape == (10, 4)
    np.testing.assert_allclose(logits, model.head(whole.flatten(1)).detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(predict(model, batches.rebatch(3)), logits, atol=1e-5)


def test_predict_in_bf16_is_close_to_fp32_but_not_equal_to_it():
    torch.manual_seed(0)
    model = Probe()
    full, half = predict(model, numbered()), predict(model, numbered(), "bf16")
    assert half.dtype == np.float32
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.1)


def test_predict_refuses_an_unknown_precision_and_an_empty_walk():
    with pytest.raises(ValueError, match="fp32, bf16"):
        predict(Probe(), numbered(), "fp8")
    with pytest.raises(ValueError, match="no examples"):
        predict(Probe(), numbered(positions=np.empty(0, dtype=np.int64)))


# -------------------- augmentation


def moves(count, *, down=0, right=0, flip=False, degrees=0.0):
    return (
        torch.full((count,), down),
        torch.full((count,), right),
        torch.full((count,), flip),
        torch.full((count,), degrees),
    )


def test_not_moving_changes_nothing():
    images = pixels(4)
    assert torch.equal(move(images, *moves(4)), images)


@pytest.mark.parametrize(("down", "right"), [(-4, 3), (0, 4), (2, -1)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_and_flip_are_those_of_torchvision(down, right, flip):
    images = pixels(3, side=9)
    expected = crop(pad(images, [PAD] * 4), PAD + down, PAD + right, 9, 9)
    expected = hflip(expected) if flip else expected
    assert torch.equal(move(images, *moves(3, down=down, right=right, flip=flip)), expected)


@pytest.mark.parametrize("degrees", [-15.0, -7.3, 4.1, 12.8])
@pytest.mark.parametrize("side", [32, 33])
def test_crop_flip_and_rotation_agree_with_torchvision_on_nearly_all_pixels(degrees, side):
    images = pixels(4, side=side)
    expected = crop(pad(images, [PAD] * 4), PAD + 2, PAD - 3, side, side)
    expected = rotate(hflip(expected), degrees, InterpolationMode.NEAREST)
    moved = move(images, *moves(4, down=2, right=-3, flip=True, degrees=degrees))
    assert (moved == expected).all(1).float().mean() > 0.99


def test_each_image_of_a_batch_is_moved_by_its_own_draw():
    images, draws = pixels(6, side=16), draw(6, torch.Generator().manual_seed(1))
    alone = torch.cat([augment(images[i : i + 1], draws[i : i + 1]) for i in range(6)])
    assert torch.equal(augment(images, draws), alone)


def test_draws_cover_all_offsets_both_flips_and_fifteen_degrees():
    seen = {}

    def spy(images, down, right, flip, degrees, window):
        seen.update(down=down, right=right, flip=flip, degrees=degrees)
        return images

    draws = draw(4000, torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.augment.move", spy)
        augment(pixels(1), draws)
    assert set(seen["down"].tolist()) == set(seen["right"].tolist()) == set(range(-PAD, PAD + 1))
    assert seen["flip"].float().mean() == pytest.approx(0.5, abs=0.03)
    assert -15 <= seen["degrees"].min() < -14.9 and 14.9 < seen["degrees"].max() <= 15


def test_an_augmented_walk_changes_each_time_and_can_be_turned_off():
    plain = batches_of(pixels(), torch.arange(10), VIEW)
    moved = plain.augmented(True)
    first, second = (next(iter(moved))[0] for _ in range(2))
    assert first.shape == (10, 3, 8, 8)
    assert not torch.equal(first, second)
    assert torch.equal(next(iter(moved.augmented(False)))[0], next(iter(plain))[0])


def test_black_is_what_comes_in_from_outside():
    lowest, _ = pixel_range(VIEW, 3, CPU)
    bright = torch.full((1, 3, 8, 8), 255, dtype=torch.uint8)
    shifted = move(bright, *moves(1, down=4))
    x, _ = next(iter(TensorBatches(shifted, torch.arange(1), torch.arange(1), VIEW, 1, torch.Generator())))
    torch.testing.assert_close(x[0, :, -1, 0], lowest)
