import numpy as np
import pytest
import torch
from torchvision.transforms import functional as tv

from snnrepro.data.augment import crop_and_flip
from snnrepro.data.draw import AUGMENT, random_bits
from snnrepro.data.images import ImageSet


def draws(seed, epoch, index, padding):
    """Returns (top, left, mirrored) of one image."""
    bits = int(random_bits(seed, AUGMENT, epoch, index))
    bits, top = divmod(bits, 2 * padding + 1)
    bits, left = divmod(bits, 2 * padding + 1)
    return top, left, bits % 2 == 1


def slow_crop_and_flip(image, top, left, mirrored, padding):
    """Pixel by pixel, from the definition."""
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                source_y = y + top - padding
                source_x = (width - 1 - x if mirrored else x) + left - padding
                if 0 <= source_y < height and 0 <= source_x < width:
                    out[c, y, x] = image[c, source_y, source_x]
    return out


def some_images(count, shape=(3, 6, 5)):
    return np.random.default_rng(0).integers(1, 256, (count, *shape), dtype=np.uint8)


@pytest.mark.parametrize("padding, flip", [(0, True), (1, False), (2, True), (7, True)])
def test_equals_pixelwise_restatement(padding, flip):
    images = some_images(24)
    epoch, index = np.arange(24) % 3, np.arange(24) * 7
    got = crop_and_flip(images, epoch, index, seed=9, padding=padding, flip=flip)
    for k, image in enumerate(images):
        top, left, mirrored = draws(9, int(epoch[k]), int(index[k]), padding)
        expected = slow_crop_and_flip(image, top, left, mirrored and flip, padding)
        np.testing.assert_array_equal(got[k], expected)


def test_equals_torchvision_pad_crop_flip_normalise():
    images, mean, std = some_images(16, (3, 8, 8)), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    cropped = crop_and_flip(images, np.zeros(16, int), np.arange(16), seed=0, padding=2, flip=True)
    scaled = [tuple(255 * value for value in values) for values in (mean, std)]
    dataset = ImageSet("test", torch.zeros(0), torch.zeros(0), mean=scaled[0], std=scaled[1])
    got = dataset.normalise(torch.from_numpy(cropped))
    for k in range(16):
        top, left, mirrored = draws(0, 0, k, 2)
        one = tv.crop(tv.pad(torch.from_numpy(images[k]), [2]), top, left, 8, 8)
        one = tv.hflip(one) if mirrored else one
        expected = tv.normalize(one.float() / 255, mean, std)
        torch.testing.assert_close(got[k], expected, rtol=1e-5, atol=1e-5)


def test_draws_are_uniform():
    count, padding = 9000, 1
    # One bright pixel in the middle shows where each image went; a flip would mirror its column.
    images = np.zeros((count, 1, 3, 3), np.uint8)
    images[:, :, 1, 1] = 1
    out = crop_and_flip(images, np.zeros(count, int), np.arange(count), seed=0, padding=padding, flip=False)
    counts = out.sum((0, 1)).ravel()
    assert counts.sum() == count
    assert ((counts - 1000.0) ** 2 / 1000).sum() < 26.1  # chi-square, 8 degrees of freedom, p = 0.001
    images = np.zeros((count, 1, 1, 2), np.uint8)
    images[..., 0] = 1
    out = crop_and_flip(images, np.zeros(count, int), np.arange(count), seed=0, padding=0, flip=True)
    assert abs(out[..., 1].sum() - count / 2) < 3.3 * (count / 4) ** 0.5


def test_an_image_does_not_depend_on_its_batch():
    images = some_images(20)
    epoch, index = np.full(20, 2), np.arange(20)
    whole = crop_and_flip(images, epoch, index, seed=1, padding=2, flip=True)
    chosen = np.array([13, 2, 19])
    alone = crop_and_flip(images[chosen], epoch[chosen], index[chosen], seed=1, padding=2, flip=True)
    np.testing.assert_array_equal(alone, whole[chosen])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seeds_and_epochs_differ(change):
    images = some_images(20)

    def make(seed=0, epoch=0):
        return crop_and_flip(images, np.full(20, epoch), np.arange(20), seed=seed, padding=2, flip=True)

    np.testing.assert_array_equal(make(), make())
    assert (make() != make(**change)).any()


def test_the_input_is_left_alone():
    images = some_images(8)
    before = images.copy()
    crop_and_flip(images, np.zeros(8, int), np.arange(8), seed=0, padding=0, flip=True)
    np.testing.assert_array_equal(images, before)
