"""W&B's own sweeps: docs/wandb_sweep.yaml, driven by `wandb sweep` and `wandb agent`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.train_command import ENDLESS, ROOT, TINY, call_train
from tests.support.wandb_sweep_server import SWEEP_ID, SweepServer
from vae.cli.main import main
from vae.runs.compose import compose
from vae.utils.registry import find_metric

SETTINGS = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
POINTS = [
    {"loss.beta": 1.23456789e-05, "model.latent_dim": 8},
    {"loss.beta": 1e-3, "model.latent_dim": 16},
    {"loss.beta": 1e-2, **dict(override.split("=") for override in ENDLESS)},  # until it is stopped
]


def test_the_sweep_file_names_keys_and_a_metric_of_train_py():
    overrides = [word for word in SETTINGS["command"] if word.startswith("trainer.")]
    assert len(overrides) == 1
    for end in ("min", "max"):
        values = {key: of[end] for key, of in SETTINGS["parameters"].items()}
        config = compose([*overrides, *(f"{key}={value}" for key, value in values.items())])
        assert (config.loss.beta, config.model.latent_dim) == tuple(values.values())
    assert config.objective == SETTINGS["metric"]["name"]
    assert not find_metric(config.objective).higher_is_better
    assert SETTINGS["metric"]["goal"] == "minimize"


def wandb_command(*arguments, cwd, environment):
    """What `wandb ARGUMENTS` printed; it finds this test's Python as `python`."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [programs / "wandb", *arguments],
        cwd=cwd,
        env={**os.environ, **environment, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_an_agent_trains_the_runs_of_a_sweep(tmp_path, monkeypatch, capsys):
    """Two runs to the end; one is stopped by the server, in good order, and resumed."""
    small = [*(o for o in TINY if not o.startswith("wandb.")), "wandb.mode=auto"]
    command = [*SETTINGS["command"][:-1], *small, SETTINGS["command"][-1]]
    settings = {**SETTINGS, "program": str(ROOT / "train.py"), "command": command}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(settings))
    folder = tmp_path / "multirun" / SWEEP_ID

    def is_endless(run):  # to W&B, which has had more rows than the others have
        return sum("val/bpd" in row for row in run.history) >= 8

    with SweepServer(POINTS, stop=is_endless) as server:
        # W&B sends the rows of a run every 15 seconds
        environment = {**server.environment, "WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}
        said = wandb_command("sweep", "sweep.yaml", cwd=tmp_path, environment=environment)
        path = f"{server.entity}/{SETTINGS['project']}/{SWEEP_ID}"
        assert f"wandb agent {path}" in said
        said = wandb_command("agent", path, cwd=tmp_path, environment=environment)
        assert "Traceback" not in said
        assert server.sweep == settings
        assert list(server.runs) == server.started == ["run0", "run1", "run2"]
        for (run_id, run), point in zip(server.runs.items(), POINTS, strict=True):
            assert run.about["sweep"] == run.about["groupName"] == SWEEP_ID
            assert run.config["loss"]["beta"] == run.config["loss.beta"] == point["loss.beta"]
            if "model.latent_dim" in point:
                assert run.config["model"]["latent_dim"] == point["model.latent_dim"]
            summary = json.loads((folder / run_id / "summary.json").read_text())
            rows = [row["val/bpd"] for row in run.history if "val/bpd" in row]
            assert rows[-1] == summary["final"]["val/bpd"]
            assert summary["wandb_run_id"] == run_id
            stopped = run_id == "run2"
            assert summary["status"] == ("interrupted" if stopped else "finished")
            assert run.exit_code == stopped

        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        on = f"trainer.max_steps={summary['step'] + 1}"
        resume = [f"resume={folder / 'run2'}", on, "trainer.epochs=null"]
        code, _, err = call_train(resume, tmp_path, monkeypatch, capsys)
        assert code == 0, err
        assert len(server.runs) == 3
        assert server.runs["run2"].exit_code == 0
        assert server.unknown == []

    assert main(["compare", str(folder), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["status"] for run in runs] == ["finished"] * 3
    assert [run["loss.beta"] for run in runs] == [point["loss.beta"] for point in POINTS]
