"""Lineage on W&B: what a run uses and logs, and runs that are read back from there.

W&B is the real library; its server is a stand-in on 127.0.0.1.
"""

import json
import subprocess
import sys

import pytest
import torch

from tests.support.run_files import identical, state_of
from tests.support.train_command import TINY, call_train
from vae.app.models import open_models
from vae.cli.main import main
from vae.runs.checkpoint import load_checkpoint
from vae.runs.load import load_run

LOGGED = [*TINY, "data.preset=core", "hydra.run.dir=run", "wandb.log_model=true"]
UNSEEN = ["wandb.mode=disabled", "wandb.tags=[]"]
PLAIN = ["metrics.parts=[]", "--json"]


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Run train.py in tmp_path; it must succeed."""

    def train(*arguments):
        code, _, err = call_train([*arguments], tmp_path, monkeypatch, capsys)
        assert code == 0, err

    return train


@pytest.fixture
def trained(train, wandb_server, monkeypatch):
    """The model that a run has logged on the stand-in."""
    monkeypatch.setenv("TEAM", "hunter2")
    private = ["sweep.storage=sqlite:///home/me/study.db", "wandb.tags=[${oc.env:TEAM}]"]
    train(*LOGGED, *private, "wandb.mode=online", "trainer.epochs=3")
    (model,) = wandb_server.artifacts.of_type("model")
    return model


@pytest.fixture
def evaluated(capsys, wandb_server):
    """Evaluate a run by the command; return its metrics, and its id on W&B."""

    def evaluate(*arguments):
        before = set(wandb_server.runs)
        capsys.readouterr()
        assert main(["evaluate", *arguments, *PLAIN]) == 0
        (run_id,) = set(wandb_server.runs) - before
        assert wandb_server.runs[run_id].about["jobType"] == "evaluate"
        return json.loads(capsys.readouterr().out)["metrics"], run_id

    return evaluate


def test_a_run_uses_its_data_and_logs_its_model(trained, wandb_server, tmp_path):
    run = tmp_path / "run"
    last, best = (load_checkpoint(run / "checkpoints" / f"{name}.pt") for name in ("last", "best"))
    (cache,) = (tmp_path / "data" / "cache").glob("synthetic-*")
    (data,) = wandb_server.artifacts.of_type("dataset")
    assert data.name == cache.name
    assert data.used_by == [last["run_id"]]
    assert data.metadata["images"] == {"train": 64, "val": 8, "test": 8}
    fingerprint = json.loads((cache / "index.json").read_text())["fingerprint"]
    assert data.metadata["fingerprint"] == fingerprint
    assert trained.name == f"model-{last['run_id']}"
    assert trained.logged_by == last["run_id"]
    assert trained.aliases == {"best", "latest"}
    assert trained.metadata == {
        "step": best["step"],
        "val/bpd": best["final"]["val/bpd"],
        "loss.beta": 1e-4,
        "model.latent_dim": 4,
        "data": cache.name,
        "data.fingerprint": fingerprint,
        "steps": {"best": best["step"], "last": 12},
    }
    for name in ("checkpoints/last.pt", "checkpoints/best.pt", "summary.json"):
        assert trained.files[name] == (run / name).read_bytes()
    (manifest,) = data.files.values()  # no image, and no folder of this machine
    assert json.loads(manifest)["contents"] == {}
    assert str(tmp_path) not in json.dumps(data.metadata)
    others = ("hydra.run.dir=run",)  # and the private ones of the command line
    shown = [*(word for word in LOGGED if word not in others), "trainer.epochs=3"]
    assert json.loads(trained.files[".hydra/accepted.yaml"]) == shown
    assert wandb_server.unknown == []


@pytest.mark.slow
def test_an_evaluation_uses_the_model(trained, evaluated, train, wandb_server):
    address = f"wandb:tester/faces/{trained.name}"
    here, first = evaluated("run")
    assert trained.used_by == [first]
    there, second = evaluated(f"{address}:latest")
    best, third = evaluated(f"{address}:best", "--checkpoint", "best")
    assert trained.used_by == [first, second, third]
    assert there == here
    assert best["val/bpd"]["value"] == pytest.approx(trained.metadata["val/bpd"], rel=1e-3)
    assert evaluated(f"outputs/wandb/{trained.name}-v0")[0] == here
    assert len(trained.used_by) == 4
    train("resume=run", "trainer.epochs=4", *UNSEEN)
    evaluated(
        "run", "wandb.log_model=true", "wandb.mode=auto"
    )  # of a checkpoint that was not logged
    assert len(trained.used_by) == 4
    assert wandb_server.unknown == []


@pytest.mark.slow
def test_commands_take_an_address(trained, tmp_path, capsys):
    address = f"wandb:tester/faces/{trained.name}:v0"
    for command in (
        ["sample", address, "--num", "4", "--no-gain"],
        ["reconstruct", address, "0"],
        ["interpolate", address],
        ["traverse", address],
        ["export", address, "--format", "torch"],
    ):
        capsys.readouterr()
        assert main([*command, "--json"]) == 0
        files = json.loads(capsys.readouterr().out)["files"]
        assert all(str(file).startswith(f"outputs/wandb/{trained.name}-v0/") for file in files)
    app = open_models(address, "last", [], torch.device("cpu"))
    weights = load_run(tmp_path / "run").model.state_dict()
    assert identical(dict(app[0].run.model.state_dict()), dict(weights))


@pytest.mark.slow
def test_a_resumed_run_is_a_new_one_that_uses_the_model(trained, train, wandb_server, tmp_path):
    address = f"resume=wandb:tester/faces/{trained.name}:latest"
    for epochs in (4, 5):  # each with its own learning rates
        train("resume=run", f"trainer.epochs={epochs}", *UNSEEN)
    train(address, "trainer.epochs=4", "wandb.mode=auto")
    train(address, "trainer.epochs=5", "wandb.mode=auto")  # the same command, longer
    downloaded = tmp_path / "outputs" / "wandb" / f"{trained.name}-v0"
    resumed = downloaded.with_name(f"{trained.name}-v0-resumed")
    assert state_of(downloaded)["step"] == 12
    here, there = state_of(tmp_path / "run"), state_of(resumed)
    assert there["step"] == 20
    for part in ("model", "optimizer", "best", "final"):
        assert identical(here[part], there[part])
    last = [run / "checkpoints" / "last.pt" for run in (resumed, downloaded)]
    ids = [load_checkpoint(file)["run_id"] for file in last]
    assert f"model-{ids[1]}" == trained.name
    assert ids[0] != ids[1]
    assert set(trained.used_by) == {ids[0]}
    _, *versions = wandb_server.artifacts.of_type("model")
    assert [str(version.name) for version in versions] == [f"model-{ids[0]}"] * 2
    assert [version.metadata["steps"]["last"] for version in versions] == [16, 20]
    assert [version.aliases for version in versions] == [set(), {"best", "latest"}]


@pytest.mark.slow
def test_a_run_is_resumed_in_a_given_folder(trained, train, tmp_path):
    address = f"resume=wandb:tester/faces/{trained.name}:v0"
    for folder in ("a", "b"):
        train(address, f"hydra.run.dir={folder}", "trainer.epochs=4", "wandb.mode=disabled")
        assert state_of(tmp_path / folder)["step"] == 16
    assert identical(state_of(tmp_path / "a"), state_of(tmp_path / "b"))


def test_lineage_of_an_offline_run_is_uploaded_with_it(train, wandb_server, tmp_path):
    train(*LOGGED, "wandb.mode=offline")
    assert wandb_server.artifacts.all == []
    (folder,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    subprocess.run(command, capture_output=True, check=True)
    (data,) = wandb_server.artifacts.of_type("dataset")
    (model,) = wandb_server.artifacts.of_type("model")
    assert data.used_by == [model.logged_by] == [folder.name.rpartition("-")[2]]


@pytest.mark.slow
def test_without_log_model_there_are_no_artifacts(train, evaluated, wandb_server):
    train(*LOGGED, "wandb.log_model=false", "wandb.mode=auto")
    evaluated("run")
    assert wandb_server.artifacts.all == []
    assert not any(b"rtifact" in body for body in wandb_server.bodies if b"query" in body)
