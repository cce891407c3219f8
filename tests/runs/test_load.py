"""Loading a trained model from its folder; unusable checkpoints."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from vae.models import build_model
from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.runs.compose import compose, run_config
from vae.runs.load import load_run, resolve_data_paths
from vae.utils.errors import UserError
from vae.utils.registry import choices


@pytest.fixture
def config():
    return compose(["data.image_size=16", "model.channels=[4,8]", "model.latent_dim=3"])


@pytest.fixture
def saved(config, tmp_path):
    """A run's folder, and the model whose weights are in it."""
    model = build_model(config.model, 16)
    model(torch.rand(8, 3, 16, 16), torch.randn(8, 3))  # so that BatchNorm has seen something
    state = {"model": model.state_dict(), "config": asdict(config), "step": 7, "epoch": 0.5}
    final = {"val/bpd": 6.5, "val/rate": 3.0}
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", {**state, "final": final})
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", {**state, "step": 5, "final": final})
    return tmp_path, model


def change(folder, edit):
    path = folder / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    edit(state)
    save_checkpoint(path, state)


def test_the_loaded_model_equals_the_saved(saved, config):
    folder, model = saved
    random = torch.get_rng_state()
    run = load_run(folder)
    assert torch.equal(torch.get_rng_state(), random)
    assert not run.model.training
    images = torch.rand(2, 3, 16, 16)
    model.eval()
    with torch.inference_mode():
        again, expected = (m.decode(m.encode(images).mode) for m in (run.model, model))
    assert torch.equal(again, expected)
    assert run.config == config
    assert type(run.config.model) is type(config.model)
    assert (run.step, run.epoch, run.metrics["val/bpd"]) == (7, 0.5, 6.5)
    assert load_run(str(folder), "best").step == 5


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda file: file.write_bytes(b"torn"), "not a valid checkpoint"),
        (Path.unlink, "there is no such checkpoint"),
    ],
)
@pytest.mark.parametrize("checkpoint", ["last", "ema"])
def test_a_damaged_last_checkpoint_loads_the_previous(checkpoint, damage, reason, saved, caplog):
    folder, model = saved
    average = {"model": model.state_dict(), "updates": 3}
    change(folder, lambda state: state.update(step=3, ema=average))
    last = folder / "checkpoints" / "last.pt"
    last.rename(last.with_name("previous.pt"))
    shutil.copy(last.with_name("best.pt"), last)
    damage(last)
    assert load_run(folder, checkpoint).step == 3
    assert f"last.pt: {reason}" in caplog.text
    assert "previous.pt, step 3." in caplog.text
    assert load_run(folder, "best").step == 5
    damage(last.with_name("previous.pt"))
    with pytest.raises(
        UserError, match=r"(last|previous)\.pt: (not a valid|there is no such) checkpoint"
    ):
        load_run(folder, checkpoint)


@pytest.mark.parametrize("data", choices("data"))
def test_every_data_source_is_reopened(data):
    config = compose([f"data={data}", *(["data.path=x"] if data == "folder" else [])])
    assert run_config(asdict(config)) == config


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda s: s["config"]["model"].update(name="os.system"), "model.name: got 'os.system'"),
        (lambda s: s["config"]["model"].update(_target_="os.system"), "model._target_: Key"),
        (lambda s: s["config"]["data"].update(root="${oc.env:HOME}"), "data.root: got '${oc.env"),
        (lambda s: s["config"]["loss"].pop("beta"), "loss.beta: needs a value"),
        (lambda s: s["config"]["loss"].update(beta=-1.0), "loss.beta: got -1.0"),
        (lambda s: s["config"]["loss"]["regularizer"].update(nats=1), "loss.regularizer.nats: Key"),
        (lambda s: s["config"]["model"].update(latent_dim="many"), "model.latent_dim: Value"),
        (lambda s: s["config"]["model"].update(latent_dim=5), "its 'model' is missing or"),
        (lambda s: s["config"]["model"].update(latent_dim=3 * 10**9), "its 'model' is missing or"),
        (lambda s: s["config"]["model"].update(latent_dim=10**30), "no model has these sizes"),
        (lambda s: s["config"].update(loss=torch.ones(3)), "loss: "),
        (lambda s: s.pop("config"), "config: not settings of this"),
        (lambda s: s["model"].popitem(), "its 'model' is missing or"),
    ],
)
def test_unknown_keys_are_refused_by_name(edit, words, saved):
    folder, _ = saved
    change(folder, edit)
    with pytest.raises(UserError) as refusal:
        load_run(folder)
    assert words in str(refusal.value)
    assert str(folder / "checkpoints" / "last.pt") in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_run_from_before_schedules_loads(saved, config):
    folder, _ = saved
    change(folder, lambda s: [s["config"]["loss"].pop(key) for key in ("schedule", "regularizer")])
    assert load_run(folder).config == config


def test_data_are_looked_for_where_the_run_was_started(tmp_path):
    """From here, once that folder is gone: the run was moved to another machine."""
    started_in = tmp_path / "elsewhere"
    started_in.mkdir()
    (tmp_path / ".hydra").mkdir()
    record = f"hydra: {{runtime: {{cwd: '{started_in}'}}}}"
    (tmp_path / ".hydra" / "hydra.yaml").write_text(record)
    data = compose(["data=folder", "data.path=faces"]).data
    found = resolve_data_paths(data, tmp_path)
    assert found.root == str(started_in / data.root)
    assert found.path == str(started_in / "faces")
    started_in.rmdir()
    assert resolve_data_paths(data, tmp_path) == data
