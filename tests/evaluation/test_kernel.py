"""The kernel distance against a double loop, torchmetrics and its expectation."""

import math
import statistics

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from vae.evaluation.distances import BLOCK, KernelDistance, squared_mmd


def normal(count, dimensions, seed, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator) + mean


def by_loops(first, second):
    """Each pair on its own, as the paper has it."""

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def mean(pairs):
        return statistics.fmean(kernel(x, y) for x, y in pairs)

    first, second = first.tolist(), second.tolist()
    within = [
        mean((x, y) for i, x in enumerate(side) for j, y in enumerate(side) if i != j)
        for side in (first, second)
    ]
    return sum(within) - 2 * mean((x, y) for x in first for y in second)


def streamed(first, second, block, batch):
    distance = KernelDistance(first.shape[1], block)
    for pair in zip(first.split(batch), second.split(batch), strict=True):
        distance.update(*pair)
    return distance.result()


@pytest.mark.parametrize("counts", [(2, 2), (9, 9), (7, 12)])
def test_mmd_equals_a_double_loop(counts):
    first, second = normal(counts[0], 5, 0), normal(counts[1], 5, 1, mean=0.5)
    assert squared_mmd(first, second) == pytest.approx(by_loops(first, second), rel=1e-6)


def test_kernel_distance_equals_torchmetrics_on_one_block():
    first, second = normal(60, 8, 2), normal(60, 8, 3, mean=0.3)
    with pytest.warns(UserWarning, match="Kernel Inception Distance"):
        theirs = KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=60)
    theirs.update(first.double(), real=True)
    theirs.update(second.double(), real=False)
    mean, error = streamed(first, second, block=BLOCK, batch=16)
    assert error is None
    assert mean == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_the_estimate_is_unbiased():
    # In one dimension k(x, y) = (xy + 1)³ = Σ binom(3, i) xⁱ yⁱ, so the squared MMD is
    # Σ binom(3, i) (E xⁱ - E yⁱ)². Of N(0, 1) the moments are 0, 1, 0; of N(m, 1) m, 1 + m²,
    # m³ + 3m.
    m = 0.8
    truth = 3 * m**2 + 3 * (m**2) ** 2 + (m**3 + 3 * m) ** 2
    estimates = np.array(
        [squared_mmd(normal(4, 1, 2 * i), normal(4, 1, 2 * i + 1, m)) for i in range(2000)]
    )
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.2 * truth
    assert abs(estimates.mean() - truth) < 4 * error


def test_equal_distributions_are_zero_within_the_error():
    mean, error = streamed(normal(6000, 16, 4), normal(6000, 16, 5), block=100, batch=128)
    assert abs(mean) < 3 * error
    other, its_error = streamed(
        normal(6000, 16, 4), normal(6000, 16, 5, mean=0.2), block=100, batch=128
    )
    assert other > 10 * its_error


@pytest.mark.parametrize("batch", [1, 7, 10, 64])
@pytest.mark.parametrize(
    ("count", "blocks"),
    [
        (30, [(0, 10), (10, 20), (20, 30)]),
        (24, [(0, 10), (10, 20)]),  # the last is less than half full
        (25, [(0, 10), (10, 20), (20, 25)]),
        (4, [(0, 4)]),  # the only one
    ],
)
def test_blocks_do_not_depend_on_batches(count, blocks, batch):
    first, second = normal(count, 3, 6), normal(count, 3, 7, mean=1.0)
    estimates = [squared_mmd(first[a:b], second[a:b]) for a, b in blocks]
    mean, error = streamed(first, second, block=10, batch=batch)
    assert mean == pytest.approx(statistics.fmean(estimates))
    if len(blocks) == 1:
        assert error is None
    else:
        expected = statistics.stdev(estimates) / math.sqrt(len(estimates))
        assert error == pytest.approx(expected)


@pytest.mark.parametrize(("count", "used"), [(21, 20), (26, 26), (7, 7)])
def test_surplus_images_of_one_side_are_ignored(count, used):
    first, second = normal(47, 3, 8), normal(count, 3, 9)
    distance = KernelDistance(3, block=10)
    distance.update(first[:30], second[:4])
    distance.update(first[30:], second[4:])
    assert distance.result() == streamed(first[:used], second[:used], block=10, batch=20)


def test_reading_a_result_changes_nothing():
    first, second = normal(27, 3, 10), normal(27, 3, 11)
    distance = KernelDistance(3, block=10)
    distance.update(first[:18], second[:18])
    distance.result()
    distance.update(first[18:], second[18:])
    assert distance.result() == streamed(first, second, block=10, batch=27)


def test_memory_holds_one_block():
    distance = KernelDistance(4, block=10)
    for seed in range(20):
        distance.update(normal(8, 4, seed), normal(8, 4, seed + 50))
        held = [len(side) for side in distance._waiting]
        assert max(held) < 10


def test_large_features_keep_precision():
    first, second = normal(40, 64, 12, mean=30.0), normal(40, 64, 13, mean=30.0)
    expected = squared_mmd(first.double(), second.double())
    assert squared_mmd(first, second) == expected


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (1, 5), (5, 0)])
def test_two_images_per_side_are_required(first, second):
    distance = KernelDistance(3)
    distance.update(normal(first, 3, 0), normal(second, 3, 1))
    with pytest.raises(ValueError, match="at least 2 images a side"):
        distance.result()
