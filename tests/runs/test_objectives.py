"""Objectives that validation does not measure: at the end of a run, as `vae evaluate` does."""

import json

import pytest

from tests.support.quick_evaluation import draw_few_faces
from tests.support.train_command import TINY, call_train
from vae.cli.main import main
from vae.evaluation import parts_of
from vae.utils.files import read_json


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    draw_few_faces(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return lambda *settings: call_train([*TINY, *settings], tmp_path, monkeypatch, capsys)


def test_an_objective_is_what_evaluation_measures(train, tmp_path, capsys):
    """Once, at the end of the last epoch; a run that is resumed there has it already."""
    settings = ["hydra.run.dir=run", "objective=[val/mig,val/rate]"]
    assert train(*settings)[0] == 0
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val/mig" in row] == [rows[-1]["step"]]
    found = rows[-1]["val/mig"]
    rate = next(row["val/rate"] for row in reversed(rows) if "val/rate" in row)
    assert read_json(tmp_path / "run/summary.json")["objective"] == [found, rate]

    assert train("resume=run")[0] == 0
    assert (tmp_path / "run/metrics.jsonl").read_text().count("val/mig") == 1
    assert read_json(tmp_path / "run/summary.json")["objective"][0] == found
    capsys.readouterr()
    assert main(["evaluate", "run", "metrics.parts=[factors]", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["val/mig"]["value"] == pytest.approx(found)


def test_a_sweep_ranks_runs_by_it(train, tmp_path):
    sweep = ["-m", "sweep.name=s", "loss.beta=1e-4,10", "objective=val/mig"]
    code, _, err = train(*sweep)
    assert code == 0, err
    table = (tmp_path / "multirun/s/comparison.csv").read_text().splitlines()
    column = table[0].split(",").index("val/mig")
    figures = [float(line.split(",")[column]) for line in table[1:]]
    assert len(figures) == 2
    assert figures == sorted(figures, reverse=True)  # the better run is first


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data=folder", "data.path=.", "objective=val/edit_effect"], "has no factors"),
        (["data=folder", "data.path=.", "objective=val/attribute_separability"], "no attributes"),
        (["objective=val/fid_samples", "metrics.inception_weights=gone.pth"], "gone.pth"),
        (["objective=val/edits"], "another that vae evaluate measures"),
        (
            ["-m", "sweep=optuna", "sweep.pruner=median", "objective=val/mig"],
            "measured at the end of a run only",
        ),
    ],
)
def test_what_cannot_be_measured_in_time_is_refused_before_training(
    train, tmp_path, settings, says
):
    code, _, err = train(*settings)
    assert code == 1
    assert says in " ".join(err.split())
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_the_face_network_is_missed_before_training(train, tmp_path, monkeypatch):
    monkeypatch.setattr("vae.models.face_net.PACKAGE", "no_such_package")
    code, _, err = train("objective=val/identity_distance")
    assert code == 1
    assert "objective: val/identity_distance" in err
    assert "[faces]" in err
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_only_the_parts_that_are_asked_for_are_measured():
    assert parts_of(["val/mig", "val/edit_leakage"]) == (["factors", "counterfactual"], [])
    assert parts_of(["val/prior_error_flow"]) == (["priors"], ["flow"])
