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


def numbers(batch):
    return (batch[:, 0, 0, 0] * 255).round().int().tolist()


def batches(images, seed=3, flip=False, batch_size=16):
    return TrainingBatches(images, batch_size, seed, flip, CPU)


def test_an_epoch_serves_each_image_once_but_for_the_remainder(images):
    served = [n for batch in batches(images).epoch(0) for n in numbers(batch)]
    assert len(served) == 32 == len(set(served))
    assert served != sorted(served)


def test_order_depends_on_seed_and_epoch_alone(images):
    def served(seed, epoch):
        return [n for b in batches(images, seed).epoch(epoch) for n in numbers(b)]

    assert served(3, 5) == served(3, 5)
    assert served(3, 5) != served(3, 6)
    assert served(3, 5) != served(4, 5)
    assert served(3, 5) == epoch_order(3, 5, 40)[:32].tolist()


def test_starting_in_the_middle_gives_the_rest(images):
    whole = list(batches(images, flip=True).epoch(2))
    rest = list(batches(images, flip=True).epoch(2, start=1))
    assert len(rest) == len(whole) - 1
    for a, b in zip(whole[1:], rest, strict=True):
        assert torch.equal(a, b)


def test_floats_are_the_bytes_over_255(images):
    batch = next(batches(images).epoch(0))
    rows = epoch_order(3, 0, 40)[:16]
    expected = torch.from_numpy(images[rows].transpose(0, 3, 1, 2).astype(np.float64) / 255)
    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch.double(), expected, atol=1e-7, rtol=0)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_flips_mirror_half_of_the_images(images):
    before = images.copy()
    plain = torch.cat(list(batches(images).epoch(0)))
    flipped = torch.cat(list(batches(images, flip=True).epoch(0)))
    mirrored = [torch.equal(f, p.flip(2)) for f, p in zip(flipped, plain, strict=True)]
    same = [torch.equal(f, p) for f, p in zip(flipped, plain, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True))
    assert 6 <= sum(mirrored) <= 26
    assert np.array_equal(images, before)


def test_flips_differ_from_epoch_to_epoch(images):
    def mirrored(epoch):
        plain = torch.cat(list(batches(images).epoch(epoch)))
        flipped = torch.cat(list(batches(images, flip=True).epoch(epoch)))
        return [not torch.equal(f, p) for f, p in zip(flipped, plain, strict=True)]

    assert mirrored(0) != mirrored(1)


def test_evaluation_serves_all_in_order(images):
    served = list(evaluation_batches(images, 16, CPU))
    assert [len(b) for b in served] == [16, 16, 8]
    assert [n for b in served for n in numbers(b)] == list(range(40))
