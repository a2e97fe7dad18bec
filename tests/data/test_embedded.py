import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from snnrepro.data import digits, synthetic
from snnrepro.data.images import Part, digest
from snnrepro.errors import DataError
from snnrepro.registry import options


def build(name="digits", **changes):
    values = {"crop_padding": 1, "flip": False, "test_fraction": 0.2, "split_seed": 0, "seed": 0}
    values |= {"samples": 200} if name == "synthetic" else {}
    values |= changes
    seed = values.pop("seed")
    return options("dataset")[name](name=name, **values).load(seed=seed, timesteps=4)


def test_digits_are_scikit_learns_pixels_and_labels():
    data, bunch = build(), load_digits()
    source = digits.load(0.2, 0)
    for part, dataset in ((source.train, data.train), (source.test, data.test)):
        assert dataset.images.dtype == torch.uint8
        np.testing.assert_array_equal(dataset.images[:, 0].numpy(), bunch.images[part.index])
        np.testing.assert_array_equal(dataset.labels.numpy(), bunch.target[part.index])
    assert (data.name, data.num_classes, data.in_shape, data.embedded) == ("digits", 10, (1, 8, 8), True)
    assert data.split == "stratified, 1437 train / 360 test, split_seed 0"


@pytest.mark.parametrize("fraction, seed", [(0.2, 0), (0.2, 1), (0.5, 0), (0.05, 7)])
def test_split_leaks_nothing_and_keeps_class_shares(fraction, seed):
    source = digits.load(fraction, seed)
    train, test = source.train.index, source.test.index
    assert sorted([*train, *test]) == list(range(1797))
    assert len(test) == math.ceil(1797 * fraction)
    share = np.bincount(source.test.labels) / np.bincount(load_digits().target)
    assert abs(share - fraction).max() < 1 / 170


def test_no_image_is_in_both_parts():
    data = build()
    train = {image.tobytes() for image in data.train.images.numpy()}
    assert not train & {image.tobytes() for image in data.test.images.numpy()}


def test_stored_split_is_the_one_scikit_learn_draws():
    source = digits.load(0.2, 0)
    train, test = digits.stratified(load_digits().target, 0.2, 0)
    np.testing.assert_array_equal(source.train.index, train)
    np.testing.assert_array_equal(source.test.index, test)


def test_stored_split_outlives_a_scikit_learn_that_splits_differently(monkeypatch):
    before = [digits.load(0.2, seed) for seed in (0, 1)]
    draw = digits.train_test_split
    monkeypatch.setattr(
        digits, "train_test_split", lambda *a, **k: draw(*a, **(k | {"random_state": k["random_state"] + 100}))
    )
    after = [digits.load(0.2, seed) for seed in (0, 1)]
    np.testing.assert_array_equal(after[0].test.index, before[0].test.index)
    # Control: a split that is not stored follows scikit-learn, so the change above did reach it.
    assert (after[1].test.index != before[1].test.index).any()


def test_other_pixels_than_the_stored_digest_are_refused(monkeypatch):
    bunch = load_digits()
    bunch.images[5, 4, 4] += 1
    monkeypatch.setattr(digits, "load_digits", lambda: bunch)
    with pytest.raises(DataError, match=r"digits: scikit-learn .* other images or labels .*digits_seed0.json"):
        digits.load(0.2, 0)
    digits.load(0.2, 1)


def test_a_changed_stored_split_is_refused(monkeypatch, tmp_path):
    stored = json.loads((digits.SPLITS / "digits_seed0.json").read_text())
    stored["test"][0] = 0
    (tmp_path / "digits_seed0.json").write_text(json.dumps(stored))
    monkeypatch.setattr(digits, "SPLITS", tmp_path)
    with pytest.raises(DataError, match=r"digits_seed0\.json"):
        digits.load(0.2, 0)


def test_digest_is_the_stored_one_and_covers_indices_labels_and_pixels():
    assert build().digest == json.loads((digits.SPLITS / "digits_seed0.json").read_text())["sha256"]
    assert build(split_seed=1).digest != build().digest
    part = Part(np.arange(2), np.zeros((2, 1, 2, 2), np.uint8), np.zeros(2, np.int64))
    one = np.array([0, 1])
    others = [
        Part(one + 1, part.images, part.labels),
        Part(part.index, part.images, one),
        Part(part.index, part.images + np.uint8(1), part.labels),
        Part(part.index, part.images.reshape(2, 1, 4, 1), part.labels),
    ]
    digests = [digest(part, part)]
    digests += [digest(*pair) for other in others for pair in ((other, part), (part, other))]
    assert len(set(digests)) == 9
    assert digest(part, part) == digests[0]


def test_statistics_come_from_the_training_images():
    data = build()
    train = data.train.images.double()
    assert data.train.mean == data.test.mean == pytest.approx([train.mean().item()])
    assert data.train.std == data.test.std == pytest.approx([train.std(correction=0).item()])
    everything = torch.cat([data.train.images, data.test.images]).double()
    assert data.train.mean != pytest.approx([everything.mean().item()])


def test_only_training_images_are_augmented_and_by_the_runs_seed():
    keys = [(0, index) for index in range(100)]
    first, second = build(seed=0), build(seed=1)
    assert not torch.equal(first.train.__getitems__(keys)[0], second.train.__getitems__(keys)[0])
    assert torch.equal(first.test.__getitems__(keys)[0], first.test.images[:100])
    plain = build(crop_padding=0)
    assert torch.equal(plain.train.__getitems__(keys)[0], plain.train.images[:100])
    assert first.digest == second.digest


def test_synthetic_is_made_from_its_seed():
    data = build("synthetic")
    assert (data.in_shape, data.num_classes, data.embedded) == ((1, 8, 8), 10, True)
    assert (len(data.train), len(data.test)) == (160, 40)
    assert data.split == "made from split_seed 0, 160 train / 40 test"
    assert build("synthetic").digest == data.digest == build("synthetic", seed=1).digest
    assert build("synthetic", split_seed=1).digest != data.digest


@pytest.mark.parametrize("samples, fraction", [(40, 0.05), (41, 0.5), (1000, 0.2)])
def test_synthetic_sizes(samples, fraction):
    source = synthetic.load(samples, fraction, 0)
    assert len(source.train.index) + len(source.test.index) == samples
    assert len(source.test.index) == math.ceil(samples * fraction)
    assert set(source.train.labels) == set(range(10))


def test_synthetic_is_learnable_and_not_trivial():
    source = synthetic.load(1000, 0.2, 0)
    images = source.train.images.astype(float)
    means = np.stack([images[source.train.labels == label].mean(0) for label in range(10)])
    distance = ((source.test.images[:, None].astype(float) - means) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == source.test.labels).mean() > 0.95
    assert len({image.tobytes() for image in (*source.train.images, *source.test.images)}) == 1000
