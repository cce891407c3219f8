"""What a report says of seeds and constraints: means, the lead of the best, infeasible points."""

import re
import shlex
import warnings
from statistics import fmean, stdev

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy.stats import ttest_ind

from tests.support.fake_sweeps import make_run, make_sweep, measured
from tests.sweeps.test_report import page, shown, table
from tests.utils.test_text import parsed
from vae.sweeps.comparison import read_sweep, rows
from vae.sweeps.report import BEST_RUNS, MAX_POINTS, overview, repeat_command
from vae.sweeps.results import RECORD_FILE
from vae.sweeps.sentences import MAX_NAMED, lead_sentences
from vae.utils.files import read_json, write_json

CLEAR = {1e-4: (6.10, 6.11, 6.12), 1e-3: (6.20, 6.22, 6.21), 1e-2: (6.5, 6.0, 6.7)}
CLOSE = {1e-4: (6.10, 6.20, 6.15), 1e-3: (6.12, 6.22, 6.17), 1e-2: (7.0, 7.1, 7.2)}
BEST_TABLE = "The best by `val/bpd`, lower is better"


def make(folder, points, constraint=None, objective=("val/bpd",), key="val/bpd"):
    """A sweep with these values of a metric, by beta, a seed for each; its rate is 10 000 beta."""
    make_sweep(folder, [], objective)
    for beta, values in points.items():
        for seed, value in enumerate(values):
            metrics = {**measured(beta), "val/rate": 1e4 * beta, key: value}
            make_run(folder, {"loss.beta": beta, "seed": seed}, metrics=metrics)
    record = read_json(folder / RECORD_FILE)
    write_json(folder / RECORD_FILE, {**record, "search": {"constraint": constraint}})
    return folder


def numbers(text):
    return [float(found) for found in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text)]


def test_a_point_has_its_mean_and_its_deviation(tmp_path):
    """Values of the best table against those of the statistics module."""
    sweep = make(tmp_path / "s", CLEAR)
    best = table(page(sweep), BEST_TABLE)
    assert [row["loss.beta"] for row in best] == ["1e-04", "1e-03", "1e-02"]
    for row, values in zip(best, CLEAR.values(), strict=True):
        assert row["val/bpd"] == f"{fmean(values):.3f} ± {stdev(values):.3f}"
        assert row["seeds"] == "3"
        assert "seed" not in row
    lines = overview(read_sweep(sweep)).splitlines()[1:4]
    for line, (beta, values) in zip(lines, CLEAR.items(), strict=True):
        assert f"{fmean(values):.3f} ± {stdev(values):.3f}" in line
        assert line.startswith("*") == (beta == 1e-4)
    assert len(table(page(sweep), "All runs")) == 9


@pytest.mark.parametrize("higher", [False, True])
def test_a_clear_lead_is_larger_than_the_noise(tmp_path, higher):
    """By scipy's own test; a positive number is in favour of the best, whichever way is better."""
    sign = -1 if higher else 1
    key = "val/psnr" if higher else "val/bpd"
    points = {beta: tuple(sign * v for v in values) for beta, values in CLEAR.items()}
    sweep = make(tmp_path / "s", points, objective=(key,), key=key)
    first, second = CLEAR[1e-4], CLEAR[1e-3]
    interval = ttest_ind(second, first, equal_var=False).confidence_interval(0.95)
    for text in (page(sweep), overview(read_sweep(sweep))):
        (said,) = [line for line in text.splitlines() if line.startswith("The lead")]
        assert shown(said).startswith("The lead of β 1e-04 over β 1e-03, 0.1 in " + key)
        assert "larger than the noise" in said
        found = numbers(said.partition("interval")[2])
        assert found == pytest.approx([interval.low, interval.high], rel=0.01)


def test_points_that_cannot_be_told_apart_are_listed(tmp_path):
    """One that is far behind, but spread widely, is among them."""
    sweep = make(tmp_path / "s", CLEAR)
    assert ttest_ind(CLEAR[1e-4], CLEAR[1e-2], equal_var=False).pvalue > 0.05
    assert "Not to be told apart from β 1e-04 by its interval: β 1e-02." in shown(page(sweep))
    said = " ".join(lead_sentences(read_sweep(make(tmp_path / "close", CLOSE))))
    assert "is within the noise" in said
    assert said.endswith("by its interval: β 1e-03.")


def test_one_run_per_point_cannot_show_a_lead(tmp_path):
    sweep = make(tmp_path / "s", {1e-4: (6.1,), 1e-3: (6.2,), 1e-2: (6.25,)})
    for text in (page(sweep), overview(read_sweep(sweep))):
        (said,) = [line for line in text.splitlines() if line.startswith("The lead")]
        assert "0.1 in val/bpd, cannot be judged from one seed" in said
        assert "sweep.seeds=3" in said
    assert "±" not in page(sweep)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ({1e-4: (6.1,), 1e-3: (6.2, 6.3)}, "one of the two has a single run"),
        ({1e-4: (6.1, 6.1), 1e-3: (6.2, 6.2)}, "no interval: no seed changes val/bpd"),
        ({1e-4: (6.1, 6.1), 1e-3: (6.2, 6.3)}, "Welch's 95% interval"),
        ({1e-4: (6.1, 6.2), 1e-3: (6.3, 6.4), 1e-2: (7.0,)}, "one run, or seeds that change"),
    ],
)
def test_missing_seeds_and_equal_seeds_are_named(points, words, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert words in " ".join(lead_sentences(read_sweep(make(tmp_path / "s", points))))


def test_a_metric_that_one_seed_lacks_has_no_mean(tmp_path):
    sweep = make(tmp_path / "s", {1e-4: (6.1, 6.2), 1e-3: (6.3, 6.4)})
    metrics = {"val/bpd": 6.15, "val/rate": 1.0}
    make_run(sweep, {"loss.beta": 1e-4, "seed": 2}, metrics=metrics)
    first, second = table(page(sweep), BEST_TABLE)
    assert (first["seeds"], first["val/psnr"]) == ("3", "")
    assert first["val/bpd"] == "6.150 ± 0.050"
    assert "±" in second["val/psnr"]
    assert "6.150 ± 0.050" in overview(read_sweep(sweep))


def test_seeds_alone_have_their_spread(tmp_path):
    make_sweep(tmp_path / "s", [{"seed": seed} for seed in range(4)])
    sweep = read_sweep(tmp_path / "s")
    values = [run.metrics["val/bpd"] for run in sweep.runs]
    said = f"Over 4 seeds: val/bpd {fmean(values):.3f} ± {stdev(values):.3f}"
    assert overview(sweep).splitlines()[-1].startswith(said)


def test_several_objectives_have_no_lead(tmp_path):
    for points, count in (({1e-4: (6.1,), 1e-3: (6.2,)}, 0), (CLEAR, 1)):
        sweep = make(tmp_path / str(count), points, objective=["val/rate", "val/bpd"])
        found = lead_sentences(read_sweep(sweep))
        assert len(found) == count
        assert "The lead" not in page(sweep)
    assert "means over seeds" in found[0]


def test_many_points_are_bounded(tmp_path):
    """The best are on the terminal; the sentence on them ends."""
    points = {10 ** -(1 + k / 50): (6 + k / 100, 7 + k / 100) for k in range(60)}
    sweep = make(tmp_path / "s", points)
    make_run(sweep, {"loss.beta": 1, "seed": 0}, "failed", error="a reason")
    lines = overview(read_sweep(sweep)).splitlines()
    more = next(n for n, line in enumerate(lines) if "more are in report.md" in line)
    assert (more, lines[more][:2]) == (1 + MAX_POINTS, "31")
    assert lines[MAX_POINTS].startswith("*  β 0.1 ")  # in the order of beta
    unclear = next(line for line in lines if line.startswith("Not to be told apart"))
    assert unclear.count(";") == MAX_NAMED
    assert f"and {59 - MAX_NAMED} more" in unclear
    assert len(table(page(sweep), BEST_TABLE)) == BEST_RUNS
    trades = {beta: (1 / beta,) for beta in points}
    text = page(make(tmp_path / "f", trades, objective=["val/rate", "val/bpd"]))
    assert len(table(text, "The 60 best trade-offs")) == MAX_POINTS
    assert text.count("python train.py loss.beta") == MAX_POINTS


def test_commands_train_a_point_with_all_its_seeds(tmp_path):
    """By Hydra's own grammar: the seed is swept, nothing else."""
    sweep = tmp_path / "s"
    values = {"data": "folder", "data.path": "'my photos; (old), $HOME'", "model.channels": [4, 8]}
    for beta in (1e-4, 1e-3):
        for seed in (0, 1, 5):
            make_run(sweep, {"loss.beta": beta, **values, "seed": seed})
    comparison = read_sweep(sweep)
    blocks = [block.splitlines()[1:] for block in page(sweep).split("```")[1::2]]
    several, single = blocks
    assert several == [repeat_command(point) for point in comparison.points]
    assert single == [repeat_command(comparison.best_run(point)) for point in comparison.points]
    assert all(" -m " not in line and line.count("seed=") == 1 for line in single)
    for line, point in zip(several, comparison.points, strict=True):
        python, script, flag, *words = shlex.split(line)
        assert [python, script, flag] == ["python", "train.py", "-m"]
        parsed_words = OverridesParser.create().parse_overrides(words)
        swept = {o.key_or_group: o for o in parsed_words if o.is_sweep_override()}
        assert [*swept] == ["seed"]
        assert line.count("seed=") == 1
        assert [*map(int, swept["seed"].sweep_string_iterator())] == [0, 1, 5]
        given = {o.key_or_group: o.value() for o in parsed_words}
        assert given["data.path"] == "my photos; (old), $HOME"
        assert given["loss.beta"] == point.value("loss.beta")


def test_infeasible_points_stand_apart(tmp_path):
    """The best is the best that keeps the constraint; the others say by how much they break it."""
    sweep = make(tmp_path / "s", CLEAR, "val/rate >= 5")
    comparison, text = read_sweep(sweep), page(sweep)
    assert "Constraint: val/rate >= 5. 2 of 3 points keep it by its mean" in shown(text)
    best, apart = table(text, BEST_TABLE), table(text, "Infeasible")
    assert [row["loss.beta"] for row in best] == ["1e-03", "1e-02"]
    assert [row["loss.beta"] for row in apart] == ["1e-04"]
    assert shown(apart[0]["constraint"]) == "breaks val/rate >= 5 by 4"
    assert "**" in best[0]["best run"]
    assert "The lead of β 1e-03 over β 1e-02" in shown(text)
    states = [row["status"] for row in table(text, "All runs")]
    assert [shown(state) for state in states[:3]] == ["finished, breaks val/rate >= 5 by 4"] * 3
    assert states[3:] == ["finished"] * 6
    lines = overview(comparison).splitlines()
    assert ["infeasible" in line for line in lines[1:4]] == [True, False, False]
    assert lines[2].startswith("*")
    assert "Not to be told apart from β 1e-03 by its interval: β 1e-02." in shown(text)
    kinds, _ = parsed(text)
    assert not {"html_block", "html_inline"} & set(kinds)
    assert kinds.count("table_open") == 3


def test_no_feasible_point_is_said(tmp_path):
    """The least infeasible come first, whatever the units: a rate has larger numbers than bpd."""
    points = {1e-4: (6.3, 6.3), 1e-3: (6.2, 6.2), 1e-2: (6.1, 6.1)}
    sweep = make(tmp_path / "s", points, ["val/rate <= 0.5", "val/bpd <= 6.4"])
    text = page(sweep)
    assert "None of 3 points keeps it by its mean over the seeds; β 1e-04 is nearest" in shown(text)
    apart = table(text, "Infeasible")
    assert [row["loss.beta"] for row in apart] == ["1e-04", "1e-03", "1e-02"]
    assert shown(apart[1]["constraint"]) == "breaks val/rate <= 0.5 by 9.5"
    units = make(tmp_path / "u", {1.0: (1.1,), 0.999: (2.0,)}, ["val/rate <= 9900", "val/bpd <= 1"])
    order = [row["loss.beta"] for row in table(page(units), "Infeasible")]
    assert order == ["1", "0.999"]  # 1 % and 10 % over; 0.9 % and 100 % over
    assert "## The best" not in text
    assert "The lead" not in text
    assert "*" not in overview(read_sweep(sweep))


def test_an_unmeasured_constraint_is_broken(tmp_path):
    sweep = make(tmp_path / "s", {1e-4: (6.1,), 1e-3: (6.2,)}, "val/ssim >= 0")
    metrics = {"val/bpd": 5.0, "val/rate": 1.0}
    make_run(sweep, {"loss.beta": 1, "seed": 0}, metrics=metrics)
    (row,) = table(page(sweep), "Infeasible")
    assert "breaks val/ssim >= 0 (not measured)" in shown(row["status"])
    feasible = [row["feasible"] for row in rows(read_sweep(sweep))]
    assert feasible == [True, True, False]
    make(tmp_path / "free", {1e-4: (6.1,)})
    assert "feasible" not in rows(read_sweep(tmp_path / "free"))[0]
