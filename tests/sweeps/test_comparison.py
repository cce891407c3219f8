"""Reading a sweep from its folders: order, states, tolerance of damage."""

import csv
import json
import random
from contextlib import nullcontext

import optuna
import pytest

from tests.support.fake_sweeps import grid_of, make_run, make_sweep, measured
from vae.runs.run_dir import run_lock
from vae.sweeps.comparison import format_value, pareto_front, read_sweep, rows
from vae.utils.registry import run_metrics
from vae.utils.tables import write_csv


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_the_front_equals_optunas(objectives):
    """Points on a coarse grid, so that many are equal in some objective, or in all."""
    draw = random.Random(objectives)
    points = [tuple(float(draw.randrange(8)) for _ in range(objectives)) for _ in range(60)]
    study = optuna.create_study(directions=["minimize"] * objectives)
    for point in points:
        study.add_trial(optuna.trial.create_trial(values=point))
    best = [t for t in study.get_trials() if t.values in [b.values for b in study.best_trials]]
    assert pareto_front(points) == [trial.number for trial in best]


def test_runs_are_ordered_by_beta_then_size_then_the_rest_as_numbers(tmp_path):
    values = grid_of(
        {
            "loss.beta": (1e-5, 9e-5, 10.0),
            "model.latent_dim": (8, 64, 128),
            "trainer.epochs": (2, 10),
            "seed": (0, 1),
        }
    )
    shuffled = random.Random(0).sample(values, len(values))
    found = read_sweep(make_sweep(tmp_path / "s", shuffled))
    assert found.swept == ["loss.beta", "model.latent_dim", "trainer.epochs", "seed"]
    assert [{key: run.value(key) for key in found.swept} for run in found.runs] == values


def test_only_differing_keys_are_swept(tmp_path):
    """A run without an override has the configured value, or, without that, the override's."""
    shared = {"optimizer.lr": 1e-3, "wandb.mode": "disabled"}
    for number, own in enumerate([{"seed": 0}, {"loss.beta": 1e-2}]):  # the default, given
        make_run(tmp_path / "s", {**shared, **own, "wandb.name": number, "sweep.trial": number})
    for lost in (False, True):
        if lost:
            next(tmp_path.glob("s/*loss.beta=0.01*/.hydra/config.yaml")).unlink()
        found = read_sweep(tmp_path / "s")
        assert set(found.swept) - {"seed"} == {"loss.beta"}
        assert lost or "seed" not in found.swept
        assert [run.value("loss.beta") for run in found.runs] == [1e-4, 1e-2]
        assert [run.trial for run in found.runs] == [0, 1]


def test_the_csv_has_each_run_once_and_each_column_once(tmp_path):
    values = grid_of({"model.latent_dim": (4, 16), "seed": (0, 1)})
    sweep = make_sweep(tmp_path / "s", values)
    make_run(sweep, {"model.latent_dim": 32, "seed": 0}, "failed", {}, error='a, "b"\nc')
    write_csv(rows(read_sweep(sweep)), tmp_path / "c.csv")
    with open(tmp_path / "c.csv", newline="", encoding="utf-8") as file:
        heads, *lines = csv.reader(file)
    assert len(set(heads)) == len(heads)
    assert {"run", "status", "trial", "loss.beta", *values[0], *run_metrics()} < {*heads}
    table = [dict(zip(heads, line, strict=True)) for line in lines]
    settings = [{key: int(row[key]) for key in values[0]} for row in table]
    assert settings == [*values, {"model.latent_dim": 32, "seed": 0}]
    for row, run in zip(table, read_sweep(sweep).runs, strict=True):
        final = json.loads((run.folder / "summary.json").read_text())["final"]
        assert {key: float(row[key]) for key in run_metrics() if row[key]} == final
        assert float(row["beta_elbo"]) == pytest.approx(
            float(row["loss.beta"]) * 3 * 64**2 / int(row["model.latent_dim"])
        )
    assert table[-1]["error"] == 'a, "b"\nc'


@pytest.mark.parametrize(
    ("left", "locked", "status"),
    [
        ("finished", False, "finished"),
        ("finished", True, "finished"),  # the process may be at the sweep's next run
        ("pruned", True, "running"),
        ("interrupted", False, "interrupted"),
        ("interrupted", True, "running"),  # it goes on: what it left is from before
        ("failed", False, "failed"),
        ("failed", True, "running"),
        (None, True, "running"),
        (None, False, "cut"),
    ],
)
def test_each_state_is_recognised(left, locked, status, tmp_path):
    folder = make_run(tmp_path / "s", {"seed": 1}, left)
    with run_lock(folder) if locked else nullcontext():
        (run,) = read_sweep(tmp_path / "s").runs
    assert run.status == status
    assert run.metrics == measured(run.value("loss.beta"), 128, 1)  # of its last validation
    assert run.step == 1200
    assert read_sweep(tmp_path / "s").ranked == [run] * (left == "finished")
    if status == "interrupted":  # and killed once it had been resumed
        (folder / "metrics.jsonl").write_text('{"step": 1300, "val/bpd": 6.5}\n')
        (run,) = read_sweep(tmp_path / "s").runs
        assert (run.status, run.step, run.metrics) == ("cut", 1300, {"val/bpd": 6.5})


@pytest.mark.parametrize("torn", ["", "{", '{"status": "fin', "[]", "null", "\x00\xff"])
def test_damaged_files_affect_one_run_only(torn, tmp_path):
    """Other folders beside the runs, too."""
    sweep = make_sweep(tmp_path / "s", [{"loss.beta": beta} for beta in (1e-4, 1e-3)])
    for name in (".submitit/.hydra", "wandb/run", "seed=2"):
        (sweep / name).mkdir(parents=True)
    for file in (".hydra/accepted.yaml", "metrics.jsonl", "summary.json", ".hydra/config.yaml"):
        (sweep / "loss.beta=0.001" / file).write_bytes(torn.encode("latin1"))
        found = read_sweep(sweep)
        assert len(rows(found)) == 2
        intact = next(run for run in found.runs if run.name == "loss.beta=0.0001")
        assert (intact.status, intact.metrics) == ("finished", measured(1e-4, 128, 0))


def test_labels_show_the_swept_values(tmp_path):
    values = {"loss.beta": 1e-4, "model.latent_dim": 64, "data.seed": 1, "seed": 2}
    other = {"loss.beta": 0.5, "model.latent_dim": 8, "data.seed": 3, "seed": 4}
    found = read_sweep(make_sweep(tmp_path / "s", [values, other]))
    assert list(map(found.label, found.runs)) == [
        "β 1e-04, z 64, data.seed 1, seed 2",
        "β 0.5, z 8, data.seed 3, seed 4",
    ]
    brief = {0.00123456: "1.23e-03", 0.0: "0", 128: "128", 2.0: "2", "a": "a"}
    assert {value: format_value(value) for value in brief} == brief
