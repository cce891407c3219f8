"""Medians, quartiles and ratios against NumPy's; which rounds count."""

import numpy as np
import pytest

from vae.benchmark.timing import (
    BUSY_CORES,
    MIN_QUIET_ROUNDS,
    Sample,
    median_ratio,
    quartiles,
    summarize,
    undisturbed_rounds,
)

NOISY = BUSY_CORES + 0.1


def series(values, others=None):
    return [Sample(v, o) for v, o in zip(values, others or [0.0] * len(values), strict=True)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_quartiles_equal_numpys(count):
    values = np.random.default_rng(count).normal(size=count).tolist()
    assert quartiles(values) == pytest.approx(np.percentile(values, [25, 50, 75]))


def test_disturbed_rounds_are_dropped():
    values = [10.0, 2.0, 11.0, 12.0, 3.0, 15.0]
    others = [0.0, NOISY, BUSY_CORES, 0.1, NOISY, 0.0]
    found = summarize(series(values, others))
    quiet = [10.0, 11.0, 12.0, 15.0]
    assert (found["low"], found["median"], found["high"]) == pytest.approx(
        tuple(np.percentile(quiet, [25, 50, 75]))
    )
    assert found["dropped"] == 2
    assert found["values"] == values
    assert found["others"] == others


@pytest.mark.parametrize("quiet", range(6))
def test_all_rounds_count_if_too_few_are_quiet(quiet):
    others = [0.0] * quiet + [NOISY] * (5 - quiet)
    found = summarize(series([1.0, 2.0, 3.0, 4.0, 5.0], others))
    assert found["dropped"] == (5 - quiet if quiet >= MIN_QUIET_ROUNDS else 0)


def test_a_ratio_is_of_rounds_that_are_quiet_for_both():
    ours = series([20.0, 30.0, 44.0, 55.0, 1.0], [0.0, NOISY, 0.0, 0.0, 0.0])
    theirs = series([10.0, 10.0, 20.0, 20.0, 10.0], [0.0, 0.0, 0.0, 0.0, NOISY])
    assert undisturbed_rounds(ours, theirs) == [0, 2, 3]
    assert median_ratio(ours, theirs) == pytest.approx(np.median([20 / 10, 44 / 20, 55 / 20]))


def test_a_ratio_is_taken_round_by_round():
    # the machine is three times slower in the second round, for both alike
    ours, theirs = series([30.0, 10.0, 31.0]), series([15.0, 5.0, 15.5])
    assert median_ratio(ours, theirs) == pytest.approx(2.0)
    ours, theirs = series([30.0, 1.0, 2.0]), series([10.0, 2.0, 8.0])
    assert median_ratio(ours, theirs) == pytest.approx(
        np.median([3.0, 0.5, 0.25])
    )  # of medians: 1/4
