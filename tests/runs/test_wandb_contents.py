"""The W&B run: read from disk when offline, from a local server when online."""

import json

import pytest
import wandb

from tests.support.train_command import TINY, call_train, run_train
from tests.support.wandb_files import read_run, read_runs
from tests.support.wandb_server import WandbServer
from vae.runs.checkpoint import load_checkpoint

SMALL = [o for o in TINY if not o.startswith("wandb.")]
FIGURES = {f"figures/{n}" for n in ("reconstructions", "samples", "interpolation", "traversal")}


@pytest.fixture(autouse=True)
def fresh_wandb():
    """wandb reads its environment once a process."""
    wandb.teardown()
    yield
    wandb.teardown()


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_an_offline_run_holds_everything(tmp_path, monkeypatch, capsys):
    arguments = [*SMALL, "hydra.run.dir=run", "loss.beta=0.01", "wandb.tags=[a,b]"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    folder = tmp_path / "run"
    run = read_run(folder)
    assert run.config["model"]["latent_dim"] == 4
    loss = run.config["loss"]
    assert (loss["name"], loss["beta"], loss["kl_reduction"]) == ("bce", 0.01, "latents")
    assert (loss["regularizer"]["name"], loss["schedule"]["name"]) == ("kl", "constant")
    assert run.config["beta_elbo"] == pytest.approx(0.01 * 768 / 4)
    assert run.metric_rows == rows(folder)
    assert set(run.pictures) == FIGURES
    assert all(path.stat().st_size > 1000 for path in run.pictures.values())
    assert run.step_metrics["*"] == "step"
    final = rows(folder)[-1]
    assert run.summary["val/bpd"]["last"] == final["val/bpd"]
    assert run.summary["val/rate"] == final["val/rate"]
    assert run.summary["status"] == "finished"
    assert (run.project, run.job_type, run.tags) == ("minifaceapp", "train", ["a", "b"])
    assert "loss.beta=0.01" in run.name
    assert run.exit_code == 0
    assert load_checkpoint(folder / "checkpoints" / "last.pt")["run_id"] == run.id


def test_a_sweep_is_one_run_each_in_one_group(tmp_path, monkeypatch, capsys):
    arguments = ["-m", *SMALL, "wandb.mode=offline", "loss.beta=1e-5,1e-4,1e-3", "sweep.name=s"]
    assert call_train(arguments, tmp_path, monkeypatch, capsys)[0] == 0
    found = {}
    for folder in sorted((tmp_path / "multirun" / "s").iterdir()):
        if (folder / ".hydra").is_dir():
            (run,) = read_runs(folder)
            found[run.name] = run
            assert run.metric_rows == rows(folder)
            assert run.name == folder.name
    assert {name: run.config["loss"]["beta"] for name, run in found.items()} == {
        "loss.beta=1e-05": 1e-5,
        "loss.beta=0.0001": 1e-4,
        "loss.beta=0.001": 1e-3,
    }
    assert {run.group for run in found.values()} == {"s"}
    assert len({run.id for run in found.values()}) == 3
    assert {run.exit_code for run in found.values()} == {0}


def test_a_failed_run_is_failed_on_wandb_too(tmp_path, monkeypatch, capsys):
    """An absurd learning rate: the loss is not finite, the run says where, W&B says failed."""
    arguments = [*SMALL, "hydra.run.dir=run", "optimizer.lr=1e30", "wandb.mode=offline"]
    code, out, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code != 0
    assert "Traceback" not in out + err
    assert "training stopped at step" in err
    assert "optimizer.lr" in err
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"
    assert read_run(tmp_path / "run").exit_code == 1


def test_a_resumed_run_is_the_same_run(tmp_path):
    assert run_train([*SMALL, "hydra.run.dir=run"], tmp_path).returncode == 0
    done = run_train(["resume=run", "trainer.epochs=3"], tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = read_runs(tmp_path / "run")
    assert first.id == second.id
    assert [r["step"] for r in second.metric_rows if "val/bpd" in r] == [12]


def test_an_online_run_arrives(tmp_path):
    with WandbServer() as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.key}
        done = run_train([*SMALL, "hydra.run.dir=run", "wandb.mode=auto"], tmp_path, **environment)
        assert done.returncode == 0, done.stderr
        (run,) = server.runs.values()
    logged = [row for row in rows(tmp_path / "run") if "val/bpd" in row]
    arrived = [row for row in run.history if "val/bpd" in row]
    assert [row["val/bpd"] for row in arrived] == [row["val/bpd"] for row in logged]
    assert run.config["model"]["latent_dim"] == 4
    assert run.exit_code == 0
    secrets = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert not any(server.key.encode() in path.read_bytes() for path in secrets)
