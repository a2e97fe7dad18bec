"""The augment group: what it does to images and labels, and that each draw is a function of (seed, epoch, index)."""

import random

import numpy as np
import pytest
import torch
from faults.digest import run_digest
from faults.test_resume import interrupted_and_resumed

from snnrepro.build import build_dataset
from snnrepro.compose import compose_run
from snnrepro.config_values import to_plain
from snnrepro.data.images import ImageSet
from snnrepro.data.loading import loader
from snnrepro.data.mixed import MixedSet
from snnrepro.data.order import EpochOrder
from snnrepro.data.strong import Strong
from snnrepro.errors import ConfigError
from snnrepro.identity import run_id
from snnrepro.runs import run_path
from snnrepro.tasks.losses import mean_logit_cross_entropy, temporal_efficient_training
from snnrepro.train.loop import train

KEYS = [(epoch, index) for epoch in (0, 3) for index in range(40)]


def colours(count=40, size=16):
    """Images of one colour each, the number of its class."""
    labels = torch.arange(count) % 10
    images = labels.to(torch.uint8).view(-1, 1, 1, 1).expand(count, 3, size, size).contiguous()
    return ImageSet("colours", images, labels, mean=(4.5,) * 3, std=(2.0,) * 3)


def textured(channels, seed=0):
    images = np.random.default_rng(0).integers(0, 256, (40, channels, 16, 16), dtype=np.uint8)
    found = ImageSet("textured", torch.from_numpy(images), torch.arange(40) % 10, mean=(99.0,) * channels,
                     std=(50.0,) * channels)  # fmt: skip
    found.augment = Strong(found, seed, "rand-m9-mstd0.5-inc1", 0.5, "noise")
    return found


def test_the_default_changes_no_run_and_none_is_as_stored():
    run, plain = compose_run([]), compose_run(["augment=none"])
    assert to_plain(run)["augment"] == {"name": "crop_flip"} and run_id(run) != run_id(plain)
    keys = [(0, 5), (1, 5)]
    stored = build_dataset(plain).train
    assert torch.equal(stored.__getitems__(keys)[0], stored.images[[5, 5]])
    assert not torch.equal(build_dataset(run).train.__getitems__(keys)[0], stored.images[[5, 5]])


@pytest.mark.parametrize("channels", [1, 3])
def test_strong_images_are_a_function_of_seed_epoch_and_index(channels):
    found = textured(channels)
    images = found.__getitems__(KEYS)[0]
    alone = torch.cat([found.__getitems__([key])[0] for key in KEYS])
    assert images.dtype == torch.float32 and torch.equal(images, alone)
    assert not torch.equal(images[:40], images[40:]), "epochs differ"
    assert not torch.equal(images, textured(channels, seed=1).__getitems__(KEYS)[0]), "seeds differ"
    changed = (images[:40] != found.images).flatten(1).any(1).float().mean()
    assert changed > 0.8


def test_timms_draws_leave_the_global_generators_alone():
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    textured(3).__getitems__(KEYS)
    assert random.getstate() == before[0] and (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("fill", ["noise", "mean"])
def test_erasing_takes_a_rectangle_from_the_share_that_is_asked_for(fill):
    found = ImageSet("white", torch.full((400, 3, 16, 16), 255, dtype=torch.uint8), torch.zeros(400, dtype=torch.int64),
                     mean=(100.0,) * 3, std=(50.0,) * 3)  # fmt: skip
    found.augment = Strong(found, 0, None, 0.25, fill)
    images = found.__getitems__([(0, index) for index in range(400)])[0]
    erased = (images != 255).all(1)
    share = erased.flatten(1).any(1)
    assert 0.18 < share.float().mean() < 0.32
    area = erased[share].float().mean((1, 2))
    assert area.min() > 0.005 and area.max() < 0.4
    for mask in erased[share]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum(), "a rectangle"
    values = images.transpose(0, 1)[:, erased]
    assert values.mean().item() == pytest.approx(100, abs=2)
    assert values.std().item() == pytest.approx(50 if fill == "noise" else 0, abs=2)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0), (0.5, 0.5)])
def test_shares_of_the_label_are_shares_of_the_image(mixup, cutmix):
    """With images of one colour, its number the class, the mean colour is the mean class."""
    mixed = MixedSet(colours(), 10, 0, mixup, cutmix, None, 0.0)
    images, shares = mixed.__getitems__(KEYS)
    assert torch.allclose(shares.sum(1), torch.ones(80))
    assert torch.allclose(images.mean((1, 2, 3)), shares @ torch.arange(10.0), atol=1e-4)
    assert (shares.max(1).values < 0.999).float().mean() > 0.5
    pasted = images.amax((1, 2, 3)) - images.amin((1, 2, 3)) > 0
    assert pasted.any() == (cutmix > 0) and (not pasted.all() or mixup == 0)
    again = [mixed.__getitems__([key]) for key in KEYS]
    assert torch.equal(torch.cat([image for image, _ in again]), images)
    assert torch.equal(torch.cat([share for _, share in again]), shares)
    assert not torch.equal(shares[:40], shares[40:])


def test_the_pasted_share_is_uniform_up_to_what_the_edges_cut_off():
    """With alpha 1 half of an image is pasted on average, of which a box around a random centre loses about a third."""
    shares = MixedSet(colours(), 10, 0, 0, 1.0, None, 0.0).__getitems__([(epoch, 7) for epoch in range(400)])[1]
    assert 0.58 < shares[:, 7].mean() < 0.72


def test_labels_are_smoothed_and_mixing_ends_when_it_is_told_to():
    mixed = MixedSet(colours(), 10, 0, 1.0, 0.0, 3, 0.1)
    images, shares = mixed.__getitems__(KEYS)
    assert images[40:].equal(mixed.images.float()), "epoch 3"
    expected = torch.full((40, 10), 0.01)
    expected[torch.arange(40), mixed.labels] = 0.91
    assert torch.allclose(shares[40:], expected) and not torch.allclose(shares[:40], expected)


def test_losses_of_shares_are_the_mean_of_those_of_classes():
    logits, share = torch.randn(3, 4, 10, dtype=torch.float64), torch.rand(4, 1, dtype=torch.float64)
    first, second = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    hot = torch.nn.functional.one_hot
    shares = share * hot(first, 10) + (1 - share) * hot(second, 10)
    for loss in (mean_logit_cross_entropy, lambda z, t: temporal_efficient_training(z, t, weight=0.0, phi=1.0)):
        parts = [
            share[i, 0] * loss(logits[:, i : i + 1], first[i : i + 1])
            + (1 - share[i, 0]) * loss(logits[:, i : i + 1], second[i : i + 1])
            for i in range(4)
        ]
        assert torch.allclose(loss(logits, shares), torch.stack(parts).mean())


def test_workers_change_nothing(tiny):
    data = build_dataset(compose_run([*tiny, "augment=timm"]))
    order = EpochOrder(len(data.train), seed=0, batch_size=16)
    order.epoch = 1
    alone, two = ([*loader(data.train, order, workers=n, pin_memory=False)] for n in (0, 2))
    for (images, shares), (others, other_shares) in zip(alone, two, strict=True):
        assert torch.equal(images, others) and torch.equal(shares, other_shares)


@pytest.mark.parametrize("words", [["augment=timm"], ["augment=timm", "loss=tet", "augment.rand_augment=null"]])
def test_a_run_trains_and_resumes_bit_by_bit(words, tiny, tmp_path, monkeypatch):
    whole = compose_run([*tiny, *words, f"runtime.output_dir={tmp_path}/undisturbed"])
    train(whole)
    assert interrupted_and_resumed([*tiny, *words], 7, monkeypatch) == run_digest(run_path(whole))


def test_the_training_accuracy_counts_the_larger_part(tiny):
    record = train(compose_run([*tiny, "augment=timm", "augment.rand_augment=null", "epochs=1"]))
    assert record["status"] == "done" and record["config"]["augment"]["mixup"] == 0.8


@pytest.mark.advice("write it as timm does, such as rand-m9-inc1")
@pytest.mark.advice("RandAugment and erasing with augment.rand_augment=null augment.erase=0")
def test_what_does_not_fit_is_refused():
    with pytest.raises(ConfigError, match=r"augment\.rand_augment=m9: write it as timm does"):
        compose_run(["augment=timm", "augment.rand_augment=m9"])
    with pytest.raises(ConfigError, match=r"augment\.erase_with=white: must be one of noise, mean"):
        compose_run(["augment=timm", "augment.erase_with=white"])
    assert compose_run(["augment=timm", "augment.rand_augment=rand-m9-inc1"]).augment.rand_augment == "rand-m9-inc1"
    with pytest.raises(ConfigError, match="frames of events"):
        compose_run(["augment=timm", "dataset=digits_dvs"])
    run = compose_run(["augment=timm", "dataset=digits_dvs", "augment.rand_augment=null", "augment.erase=0"])
    assert run.augment.cutmix == 1.0
