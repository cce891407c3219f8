"""Batches: order, flips, dtypes."""

import numpy as np
import pytest
import torch

from vae.data.loader import TrainingBatches, epoch_order, evaluation_batches

CPU = torch.device("cpu")


@pytest.fixture
def images():
    """Forty images; the first pixel of each holds its number."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = images[:, 0, -1, 0] = np.arange(40)
    return images


def numbers(served):
    return [round(n * 255) for batch in served for n in batch[:, 0, 0, 0].tolist()]


def batches(images, seed=3, flip=False):
    return TrainingBatches(images, 16, seed, flip, CPU)


def test_the_order_depends_on_seed_and_epoch_alone(images):
    def served(seed, epoch):
        return numbers(batches(images, seed).epoch(epoch))

    assert len(served(3, 5)) == 32 == len(set(served(3, 5)))  # without the last, incomplete batch
    assert served(3, 5) == served(3, 5) == epoch_order(3, 5, 40)[:32].tolist()
    assert len({tuple(served(*start)) for start in ((3, 5), (3, 6), (4, 5))}) == 3


def test_starting_in_the_middle_gives_the_rest(images):
    whole = list(batches(images, flip=True).epoch(2))
    (rest,) = batches(images, flip=True).epoch(2, start=1)
    assert torch.equal(rest, whole[1])


def test_floats_are_the_bytes_over_255(images):
    batch = next(batches(images).epoch(0))
    rows = epoch_order(3, 0, 40)[:16]
    expected = torch.from_numpy(images[rows].transpose(0, 3, 1, 2).astype(np.float64) / 255)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.double(), expected, atol=1e-7, rtol=0)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_flips_mirror_half_of_the_images(images):
    before = images.copy()

    def mirrored(epoch):
        plain = torch.cat(list(batches(images).epoch(epoch)))
        flipped = torch.cat(list(batches(images, flip=True).epoch(epoch)))
        same = (flipped == plain).flatten(1).all(1)
        assert (same | (flipped == plain.flip(3)).flatten(1).all(1)).all()
        return (~same).tolist()

    assert 6 <= sum(mirrored(0)) <= 26
    assert mirrored(0) != mirrored(1)
    assert np.array_equal(images, before)


def test_evaluation_serves_all_in_order(images):
    served = list(evaluation_batches(images, 16, CPU))
    assert [len(batch) for batch in served] == [16, 16, 8]
    assert numbers(served) == list(range(40))
