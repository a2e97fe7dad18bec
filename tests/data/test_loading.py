import gc
import multiprocessing
import os
import random
import resource
import signal
import subprocess
from functools import partial

import numpy as np
import pytest
import torch
from conftest import command, env
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from snnrepro.data.augment import crop_and_flip
from snnrepro.data.images import ImageSet
from snnrepro.data.loading import loader
from snnrepro.data.order import EpochOrder
from snnrepro.errors import DataError


def make_set(augment=None, size=50):
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (size, 1, 6, 6), dtype=np.uint8))
    return ImageSet("digits", images, torch.arange(size) % 10, mean=[100.0], std=[50.0], augment=augment)


def augmented():
    return make_set(partial(crop_and_flip, seed=3, padding=2, flip=True))


def collect(dataset, order, workers=0):
    return [
        (images.numpy().tobytes(), labels.tolist())
        for images, labels in loader(dataset, order, workers=workers, pin_memory=False)
    ]


def fail_at_index_49(images, epoch, index):
    if 49 in index:
        raise ValueError("image 49 cannot be read")
    return images


def test_a_batch_is_uint8_images_and_int64_labels():
    dataset, order = augmented(), EpochOrder(50, seed=0, batch_size=16)
    images, labels = next(iter(loader(dataset, order, workers=0, pin_memory=False)))
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (16, 1, 6, 6))
    indices = [index for _, index in next(iter(order))]
    assert (labels.dtype, labels.tolist()) == (torch.int64, [index % 10 for index in indices])


def test_without_augmentation_the_stored_pixels_arrive():
    dataset = make_set()
    images, labels = dataset.__getitems__([(5, 3), (0, 41)])
    assert torch.equal(images, dataset.images[[3, 41]])
    assert labels.tolist() == [3, 1]


def test_batches_do_not_depend_on_workers():
    order = EpochOrder(50, seed=0, batch_size=8)
    order.epoch = 1
    alone = collect(augmented(), order)
    assert collect(augmented(), order, workers=1) == alone
    assert collect(augmented(), order, workers=2) == alone


def test_batches_do_not_depend_on_what_ran_before():
    lived, fresh = (EpochOrder(50, seed=0, batch_size=8) for _ in range(2))
    dataset = augmented()
    epochs = []
    for lived.epoch in (0, 1, 2):
        torch.rand(3), np.random.default_rng().random(3)
        epochs.append(collect(dataset, lived))
    fresh.epoch = 2
    assert collect(augmented(), fresh) == epochs[2]
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_yields_the_tail_of_the_same_epoch(workers):
    order = EpochOrder(50, seed=0, batch_size=8)
    order.epoch = 3
    whole = collect(augmented(), order)
    order.first_batch = 4
    assert collect(augmented(), order, workers) == whole[4:]


def test_an_image_does_not_depend_on_the_batch_size():
    def by_index(batch_size):
        order = EpochOrder(50, seed=0, batch_size=batch_size)
        order.epoch = 1
        batches = loader(augmented(), order, workers=0, pin_memory=False)
        indices = [index for batch in order for _, index in batch]
        return dict(zip(indices, torch.cat([images for images, _ in batches]).unbind(), strict=True))

    small, large = by_index(7), by_index(32)
    assert all(torch.equal(small[index], large[index]) for index in range(50))


def global_state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_iterating_leaves_the_global_random_state_alone(workers):
    before = global_state()
    collect(augmented(), EpochOrder(50, seed=0, batch_size=8), workers)
    assert global_state() == before


def test_control_a_plain_loader_draws_from_the_global_random_state():
    before = global_state()
    list(DataLoader(augmented(), batch_sampler=EpochOrder(50, seed=0, batch_size=8), collate_fn=list))
    assert global_state() != before


@pytest.mark.slow  # torch waits 5 s for a worker that has raised
def test_a_raising_worker_is_a_data_error_in_one_line():
    dataset, order = make_set(fail_at_index_49), EpochOrder(50, seed=None, batch_size=8)
    with pytest.raises(DataError) as caught:
        collect(dataset, order, workers=1)
    assert str(caught.value).startswith("dataset=digits: ValueError: image 49 cannot be read;")
    assert "\n" not in str(caught.value)


def damaged_at_index_49(images, epoch, index):
    if 49 in index:
        raise DataError("image 49: not a readable image: truncated")
    return images


@pytest.mark.slow  # torch waits 5 s for a worker that has raised
def test_what_is_wrong_with_a_file_is_said_as_without_workers():
    for workers in (0, 1):
        with pytest.raises(DataError) as caught:
            collect(make_set(damaged_at_index_49), EpochOrder(50, seed=None, batch_size=8), workers)
        assert str(caught.value) == "image 49: not a readable image: truncated"


class NotShared(torch.Tensor):
    """Stands in for a batch that shared memory has no room for."""

    def __reduce_ex__(self, protocol):
        raise RuntimeError("unable to allocate shared memory")


class Unshared(ImageSet):
    def __getitems__(self, keys):
        images, labels = super().__getitems__(keys)
        return images.as_subclass(NotShared), labels


@pytest.mark.slow  # torch looks after its workers every 5 s
def test_a_batch_that_cannot_be_handed_over_ends_the_worker_and_is_not_waited_for(capfd):
    dataset, order = make_set(), EpochOrder(50, seed=None, batch_size=8)
    dataset.__class__ = Unshared
    with pytest.raises(DataError, match=r"dataset=digits: .*worker.*exited unexpectedly.*; runtime.workers=0 loads"):
        collect(dataset, order, workers=1)
    assert "loader: unable to allocate shared memory" in capfd.readouterr().err
    assert len(collect(dataset, order)) == 7


def test_without_workers_an_error_stays_what_it_is():
    with pytest.raises(ValueError, match="image 49"):
        collect(make_set(fail_at_index_49), EpochOrder(50, seed=None, batch_size=8))


def test_an_error_of_the_consumer_is_not_relabelled():
    with pytest.raises(RuntimeError, match="of the training step"):
        for _ in loader(make_set(), EpochOrder(50, seed=0, batch_size=8), workers=1, pin_memory=False):
            raise RuntimeError("of the training step")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_worker_is_seen_when_its_batch_is_due(number, monkeypatch):
    # torch installs its handler once per process: let it believe that this is the first time.
    monkeypatch.setattr(signal_handling, "_SIGCHLD_handler_set", False)
    before = signal.getsignal(signal.SIGCHLD)
    others = multiprocessing.active_children()
    batches = iter(loader(make_set(size=4000), EpochOrder(4000, seed=0, batch_size=8), workers=1, pin_memory=False))
    next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before
    (worker,) = [child for child in multiprocessing.active_children() if child not in others]
    os.kill(worker.pid, number)
    worker.join()
    with pytest.raises(DataError, match=r"dataset=digits: DataLoader worker .* exited unexpectedly"):
        list(batches)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [32, 40])
def test_too_few_file_descriptors_are_one_line(tiny, limit):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    words = command("train", *tiny, "epochs=1", "runtime.workers=8")
    result = subprocess.run(words, env=env(), capture_output=True, text=True, preexec_fn=few)
    assert result.returncode == 4
    assert result.stderr.count("\n") == 1 and "oo many open files for runtime.workers=8; ulimit -n" in result.stderr


@pytest.mark.slow  # torch waits for workers that it ends
def test_workers_that_could_not_all_be_started_are_ended(monkeypatch, recwarn):
    before, started = multiprocessing.active_children(), []
    start = multiprocessing.process.BaseProcess.start

    def two(self):
        if len(started) == 2:
            raise OSError(24, "Too many open files")
        started.append(self)
        start(self)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", two)
    with pytest.raises(DataError, match=r"too many open files for runtime\.workers=8"):
        collect(make_set(), EpochOrder(50, seed=0, batch_size=8), workers=8)
    gc.collect()
    assert len(started) == 2 and [child for child in multiprocessing.active_children() if child not in before] == []
    assert not recwarn.list


@pytest.mark.parametrize("inference", [False, True])
def test_normalise(inference):
    dataset = make_set()
    with torch.inference_mode(inference):
        got = dataset.normalise(dataset.images)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, (dataset.images.float() - 100) / 50)
    (dataset.normalise(dataset.images) * torch.ones((), requires_grad=True)).sum().backward()


def test_normalise_per_channel():
    dataset = ImageSet("rgb", torch.zeros(0), torch.zeros(0), mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0))
    got = dataset.normalise(torch.full((2, 3, 1, 1), 5, dtype=torch.uint8))
    assert got.flatten(1).tolist() == [[4.0, 1.5, 0.5]] * 2
