"""Tables of results against independently computed means, deviations and fronts."""

import numpy as np
import pytest
from scipy.stats import linregress, ttest_rel

from vae.sweeps.pages.statistics import (
    chosen_rows,
    chosen_table,
    fits_table,
    paired_table,
    within_table,
)
from vae.sweeps.pages.tables import describe_set_up, means_table, ranked
from vae.utils.errors import UserError


def row(**values):
    """A row as CSV has it: `val_bpd=6.1` is the figure val/bpd."""
    named = {key.replace("val_", "val/").replace("__", "."): value for key, value in values.items()}
    return {key: str(value) for key, value in named.items()}


def cells(markdown):
    """The lines of a Markdown table, each a list of texts; without the line below the heads."""
    split = [line.strip("|").split("|") for line in markdown.splitlines()]
    lines = [[cell.strip() for cell in line] for line in split]
    assert set(lines[1]) == {"---"}
    assert len({len(line) for line in lines}) == 1
    return [lines[0], *lines[2:]]


def test_means_and_deviations_over_seeds():
    rng = np.random.default_rng(0)
    rates = {beta: rng.uniform(50, 500, 3) for beta in ("1e-05", "0.001", "0.1")}
    rows = [
        row(loss__beta=beta, seed=seed, val_rate=rate)
        for beta, values in rates.items()
        for seed, rate in enumerate(values)
    ]
    heads, *lines = cells(means_table(rows, ["loss.beta"], ["val/rate"]))
    assert heads == ["`loss.beta`", "`val/rate`"]
    assert [line[0] for line in lines] == ["1e-05", "1e-03", "0.1"]  # by size, not by text
    for (_, shown), values in zip(lines, rates.values(), strict=True):
        assert shown == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def test_lines_without_deviation():
    single = means_table([row(seed=0, val_psnr=25.817)], ["seed"], ["val/psnr"])
    assert cells(single)[1:] == [["0", "25.82"]]
    equal = [row(model="conv", seed=seed, beta_elbo=0.0096) for seed in (0, 1)]
    assert cells(means_table(equal, ["model"], ["beta_elbo"]))[1:] == [["conv", "0.0096"]]
    pairs = [row(loss=loss, seed=0, val_bpd=bpd) for loss, bpd in (("mse", 6), ("bce", 5))]
    found = cells(means_table(pairs, ["loss", "seed"], ["val/bpd"]))[1:]
    assert found == [["bce", "0", "5.000"], ["mse", "0", "6.000"]]


@pytest.mark.parametrize(
    ("steps", "said"), [([30], "30"), ([30, 9], "9 or 30"), ([30, 9, 100, 20], "9 to 100")]
)
def test_the_set_up_names_few_values_and_the_ends_of_many(steps, said):
    assert f" px, {said} steps of" in describe_set_up([row(seed=0, step=step) for step in steps])


def test_the_best_respects_the_direction():
    rows = [row(run=name, val_bpd=b, val_mig=m) for name, b, m in [("a", 6, 0.1), ("b", 7, 0.4)]]
    assert [row["run"] for row in ranked(rows, ["val/bpd"])] == ["a", "b"]
    assert [row["run"] for row in ranked(rows, ["val/mig"])] == ["b", "a"]


BPD = {  # by loss and beta, for seeds 0, 1, 2
    ("bce", "0.1"): [6.3, 6.1, 6.2],
    ("bce", "1"): [6.0, 6.6, 6.1],
    ("mse", "0.1"): [6.4, 6.0, 6.5],
    ("mse", "1"): [6.05, 6.02, 6.2],
}
RUNS = [
    row(run=f"loss.beta={beta},loss={loss},seed={seed}", loss=loss, loss__beta=beta, seed=seed)
    | {"val/bpd": str(bpd), "val/psnr": str(20 + seed * bpd)}
    for (loss, beta), values in BPD.items()
    for seed, bpd in enumerate(values)
]


def test_each_setting_is_shown_at_its_best():
    words = ["loss", "by", "val/bpd"]
    found = cells(chosen_table(RUNS, words, ["loss.beta", "val/bpd"]))
    assert found == [
        ["`loss`", "`loss.beta`", "`val/bpd`"],
        ["bce", "0.1", "6.200 ± 0.100"],  # the best single run has the other beta
        ["mse", "1", "6.090 ± 0.096"],
    ]
    (only,) = cells(chosen_table(RUNS, words[1:], ["loss.beta", "val/psnr"]))[1:]
    assert only[0] == "1"
    assert chosen_rows(RUNS, ["loss"], "val/psnr") == [*RUNS[3:6], *RUNS[6:9]]  # higher is better


def test_paired_differences_have_students_interval():
    words = ["loss=mse:loss=bce", "by", "val/bpd"]
    (line,) = cells(paired_table(RUNS, words, ["val/bpd"]))[1:]
    mse, bce = BPD["mse", "1"], BPD["bce", "0.1"]
    low, high = ttest_rel(mse, bce).confidence_interval(0.95)
    mean = np.mean(mse) - np.mean(bce)
    assert line == ["`loss=mse` − `loss=bce`", "3", f"{mean:.3f} ({low:.3f} to {high:.3f})"]
    fixed = paired_table(RUNS, ["loss=bce,loss.beta=1:loss=bce,loss.beta=0.1"], ["val/bpd"])
    assert cells(fixed)[1][2].startswith("0.033 (")


@pytest.mark.parametrize("words", ["loss=mse:loss=bce", "loss=mse,seed=0:loss=bce,seed=0"])
def test_sides_without_pairs_of_seeds_are_refused(words):
    with pytest.raises(UserError, match=f"{words}: needs the same seeds on both sides, each once"):
        paired_table(RUNS, [words], ["val/bpd"])


def test_differences_within_runs_have_students_interval():
    a, b = [0.31, 0.35, 0.30], [0.11, 0.19, 0.13]
    runs = [
        row(loss="mse", seed=seed, val_edit_leakage_means=one, val_edit_leakage=other)
        for seed, (one, other) in enumerate(zip(a, b, strict=True))
    ]
    column = "val/edit_leakage_means:val/edit_leakage"
    heads, line = cells(within_table(runs, ["loss"], [column]))
    assert heads == ["`loss`", "runs", "`val/edit_leakage_means` − `val/edit_leakage`"]
    low, high = ttest_rel(a, b).confidence_interval(0.95)
    mean = np.mean(a) - np.mean(b)
    assert line == ["mse", "3", f"{mean:.3f} ({low:.3f} to {high:.3f})"]
    with pytest.raises(UserError, match=r"^loss=mse: needs two runs or more"):
        within_table(runs[:1], ["loss"], [column])


def test_small_negative_differences_have_no_sign():
    runs = [
        row(loss=loss, seed=seed, **{"val/bpd": 6 - 1e-5 * (loss == "mse")})
        for loss in ("mse", "bce")
        for seed in (0, 1)
    ]
    (line,) = cells(paired_table(runs, ["loss=mse:loss=bce"], ["val/bpd"]))[1:]
    assert line[2] == "0.000 (0.000 to 0.000)"


def test_fits_are_those_of_a_power_law_and_of_scipy():
    beta, size = np.meshgrid([1e-4, 1e-3, 1e-2], [8.0, 32, 64, 512])
    beta, size = beta.ravel(), size.ravel()
    rate = 3 * beta**-0.5 * size**0.75
    runs = [
        row(**{"loss.beta": b, "model.latent_dim": d, "val/rate": r})
        for b, d, r in zip(beta, size, rate, strict=True)
    ]
    _, raw, log = cells(fits_table(runs, ["val/rate"], ["loss.beta", "model.latent_dim"]))
    assert log[:2] == ["log `val/rate`", "1.00"]
    assert log[4:] == ["-0.50", "0.75"]
    for cell, settings, y in (
        (raw[2], beta, rate),
        (raw[3], size, rate),
        (log[2], beta, np.log(rate)),
        (log[3], size, np.log(rate)),
    ):
        assert cell == f"{linregress(np.log(settings), y).rvalue ** 2:.2f}"
    with pytest.raises(ValueError, match="figures and settings > 0"):
        fits_table(
            [row(**{"loss.beta": 1, "val/bpd": x}) for x in (1, -1)], ["val/bpd"], ["loss.beta"]
        )
