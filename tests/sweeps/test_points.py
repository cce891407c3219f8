"""Points: the runs of several seeds as one, feasible points, and the lead of the best."""

import math
from statistics import fmean, stdev

import pytest
from scipy.stats import t

from tests.support.fake_sweeps import grid_of, make_run, make_sweep, measured
from vae.runs.compose import compose
from vae.runs.config import constraints_of
from vae.sweeps.comparison import read_sweep
from vae.sweeps.points import lead
from vae.sweeps.results import RECORD_FILE
from vae.utils.errors import UserError
from vae.utils.files import read_json, write_json

SEEDS = (0, 1, 2)


def with_bpd(folder, values):
    """A sweep whose runs have these values of val/bpd, by beta; a seed for each."""
    make_sweep(folder, [])
    for beta, bpds in values.items():
        for seed, bpd in enumerate(bpds):
            metrics = {**measured(beta), "val/bpd": bpd, "val/rate": 1 / beta}
            make_run(folder, {"loss.beta": beta, "seed": seed}, metrics=metrics)
    return read_sweep(folder)


def test_runs_of_several_seeds_are_one_point(tmp_path):
    sweep = make_sweep(tmp_path / "s", grid_of({"loss.beta": (1e-3, 1e-2), "seed": SEEDS}))
    make_run(sweep, {"loss.beta": 1e-3, "seed": 3}, "failed")
    points = read_sweep(sweep).points
    assert sorted(point.value("loss.beta") for point in points) == [1e-3, 1e-2]
    for point in points:
        bpds = [measured(point.value("loss.beta"), seed=seed)["val/bpd"] for seed in SEEDS]
        assert [run.value("seed") for run in point.runs] == list(SEEDS)
        assert point.metrics["val/bpd"] == pytest.approx(fmean(bpds))
        assert point.sd("val/bpd") == pytest.approx(stdev(bpds))


def test_the_best_point_has_the_best_mean(tmp_path):
    """One lucky seed does not win."""
    sweep = with_bpd(tmp_path / "s", {1e-3: (5.0, 5.9, 5.9), 1e-2: (5.4, 5.5, 5.6)})
    assert sweep.best_point.value("loss.beta") == 1e-2
    assert sweep.best.metrics["val/bpd"] == 5.4
    assert sweep.label(sweep.best_point) == "β 1e-02"


def test_a_point_that_lacks_a_seed_does_not_win(tmp_path):
    """As in a search, where its trial has failed; it counts while no point has all seeds."""
    folder = tmp_path / "s"
    with_bpd(folder, {1e-3: (5.0,), 1e-2: (5.4, 5.5)})
    write_json(folder / RECORD_FILE, {**read_json(folder / RECORD_FILE), "search": {"seeds": 2}})
    assert read_sweep(folder).best_point.value("loss.beta") == 1e-2
    write_json(folder / RECORD_FILE, {**read_json(folder / RECORD_FILE), "search": {"seeds": 3}})
    assert read_sweep(folder).best_point.value("loss.beta") == 1e-3


def test_a_seed_counts_once(tmp_path):
    """A sweep in which the first seed was trained under two names."""
    sweep = make_sweep(tmp_path / "s", grid_of({"loss.beta": (1e-3, 1e-2), "seed": (0, 1)}))
    make_run(sweep, {"loss.beta": 1e-3})
    assert [point.n for point in read_sweep(sweep).points] == [2, 2]


def test_a_sweep_of_seeds_alone_compares_seeds(tmp_path):
    points = read_sweep(make_sweep(tmp_path / "s", grid_of({"seed": SEEDS}))).points
    assert [point.n for point in points] == [1, 1, 1]


def test_infeasible_points_never_win(tmp_path):
    folder = tmp_path / "s"
    with_bpd(folder, {1e-3: (5.0, 5.1), 1e-2: (5.4, 5.6), 1e-1: (5.7, 5.8)})
    record = read_json(folder / RECORD_FILE)
    write_json(folder / RECORD_FILE, {**record, "search": {"constraint": "val/rate <= 100"}})
    sweep = read_sweep(folder)
    assert [point.value("loss.beta") for point in sweep.points] == [1e-2, 1e-1, 1e-3]
    assert [sweep.is_feasible(point) for point in sweep.points] == [True, True, False]
    assert sweep.best.metrics["val/bpd"] == 5.4
    assert sweep.ranked[-1].metrics["val/bpd"] == 5.1
    write_json(folder / RECORD_FILE, {**record, "search": {"constraint": "val/rate <= 1"}})
    assert read_sweep(folder).best is None
    assert read_sweep(folder).front == []


def test_the_lead_has_welchs_interval(tmp_path):
    """By Welch's formula, computed by hand."""
    a, b = (5.0, 5.02, 5.01), (5.1, 5.16, 5.04, 5.08)
    best, other = with_bpd(tmp_path / "s", {1e-3: a, 1e-2: b}).points
    va, vb = stdev(a) ** 2 / 3, stdev(b) ** 2 / 4
    freedom = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 3)
    half = t.ppf(0.975, freedom) * math.sqrt(va + vb)
    difference = fmean(a) - fmean(b)
    expected = (difference, difference - half, difference + half)
    assert lead(best, other, "val/bpd") == pytest.approx(expected)


def test_one_run_has_no_interval(tmp_path):
    best, other = with_bpd(tmp_path / "s", {1e-3: (5.0,), 1e-2: (5.4, 5.5)}).points
    assert lead(best, other, "val/bpd") is None
    assert best.sd("val/bpd") is None


@pytest.mark.parametrize(
    ("text", "kept", "broken"),
    [("val/rate <= 200", 200, 200.1), ("val/psnr>=25", 25, 24.9), (" val/mse <= 1e-3 ", 0, 1)],
)
def test_constraints_are_read(text, kept, broken):
    (constraint,) = constraints_of(text)
    assert constraint.excess({constraint.metric: kept}) <= 0
    assert constraint.excess({constraint.metric: broken}) > 0
    assert constraint.excess({}) > 0  # not measured
    assert constraint.excess({constraint.metric: math.nan}) > 0


@pytest.mark.parametrize(
    "text", ["val/rate", "val/rate < 200", "rate <= 2", "val/rate <= x", "val/rate <= nan", 3]
)
def test_other_constraints_are_refused(text):
    with pytest.raises(UserError, match=r"^sweep.constraint: got .*'val/rate <= 200'"):
        compose(["sweep.name=s", f"sweep.constraint=[{text!r}]"])
