"""Loading a trained model from its folder; unusable checkpoints."""

import math
import re
from dataclasses import asdict
from unittest.mock import MagicMock

import pytest
import torch

from tests.support.run_files import DAMAGES
from tests.support.wandb_server import WandbServer
from vae.models import build_model
from vae.runs.checkpoint import load_checkpoint, load_resume_state, save_checkpoint
from vae.runs.compose import compose, run_config
from vae.runs.load import evaluate_and_record, load_run, resolve_data_paths
from vae.utils.errors import UserError
from vae.utils.registry import choices


def test_the_loaded_model_equals_the_saved(tmp_path):
    config = compose(["data.image_size=16", "model.channels=[4,8]", "model.latent_dim=3"])
    model = build_model(config.model, 16)
    model(torch.rand(8, 3, 16, 16), torch.randn(8, 3))  # so that BatchNorm has seen something
    state = {"model": model.state_dict(), "config": asdict(config), "step": 7, "epoch": 0.5}
    state["final"] = {"val/bpd": 6.5, "val/rate": 3.0}
    save_checkpoint(tmp_path / "checkpoints" / "last.pt", state)
    for key in ("schedule", "regularizer", "perceptual"):  # an older version had none
        del state["config"]["loss"][key]
    for key in ("activation", "last_layer", "latent_shape"):
        del state["config"]["model"][key]
    save_checkpoint(tmp_path / "checkpoints" / "best.pt", {**state, "step": 5})
    random = torch.get_rng_state()
    run = load_run(tmp_path)
    assert torch.equal(torch.get_rng_state(), random)
    assert not run.model.training
    images = torch.rand(2, 3, 16, 16)
    model.eval()
    with torch.inference_mode():
        again, expected = (m.decode(m.encode(images).mode) for m in (run.model, model))
    assert torch.equal(again, expected)
    assert type(run.config.model) is type(config.model)
    assert (run.step, run.epoch, run.metrics["val/bpd"]) == (7, 0.5, 6.5)
    older = load_run(str(tmp_path), "best")
    assert older.step == 5
    assert older.config == run.config == config


@pytest.mark.parametrize("checkpoint", ["last", "ema"])
def test_a_damaged_last_checkpoint_loads_the_previous(checkpoint, finished, caplog):
    last = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    average = {"model": state["model"], "updates": 3}
    save_checkpoint(last.with_name("previous.pt"), {**state, "step": 3, "ema": average})
    for damage, reason in DAMAGES:
        damage(last)
        assert load_run(finished, checkpoint).step == 3
        assert f"last.pt: {reason}" in caplog.text
        assert "previous.pt, step 3." in caplog.text
    assert load_run(finished, "best").step == state["step"]
    last.with_name("previous.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"previous\.pt: not a valid checkpoint"):
        load_run(finished, checkpoint)
    for file in last.parent.iterdir():
        file.unlink()
    expected = r"last\.pt: .*no such checkpoint \(the run: finished\).*resume="
    assert re.search(expected, refused(load_run, finished, checkpoint))


@pytest.mark.parametrize("data", choices("data"))
def test_every_data_source_is_reopened(data):
    config = compose([f"data={data}", *(["data.path=x"] if data == "folder" else [])])
    assert run_config(asdict(config)) == config


def nested(depth):
    """A dict in a dict in a dict ..."""
    found = {}
    for _ in range(depth):
        found = {"a": found}
    return found


ZEROS, BIAS = torch.zeros(2).double(), "model encoder.mean.bias"
NOT_SETTINGS = "config: not settings"
GONE = "gone"
FORGED = [  # an entry, its new value, and what the message says
    ("config", GONE, NOT_SETTINGS),
    ("config", "[" * 10**5, NOT_SETTINGS),
    ("config model", nested(250), NOT_SETTINGS),
    ("config model name", "os.system", "model.name: got 'os.system'"),
    ("config model _target_", "os.system", "model._target_: Key"),
    ("config model latent_dim", "many", "model.latent_dim: Value"),
    ("config seed", GONE, "seed: needs a value"),
    ("config wandb name", GONE, r"wandb\.name: needs"),
    ("config objective", "${oc.env:HOME}", r"objective: got .* without \${"),
    ("config model latent_dim", 3_000_000, "model.latent_dim: got 3000000, .* 1 to 65536"),
    ("config loss", ZEROS, "loss: .*not a supported"),
    ("config loss beta", GONE, "loss.beta: needs a value"),
    ("config loss beta", -1.0, "loss.beta: got -1.0"),
    ("config loss regularizer nats", 1, "loss.regularizer.nats: Key"),
    (BIAS, GONE, "'model'"),
    (BIAS, torch.zeros(9), "'model'"),
    (BIAS, torch.zeros(4).double(), "'model'"),
    (BIAS, torch.zeros(()).expand(4), "'model'"),  # a tensor without data for its values
    ("step", -1, "'step'"),
    ("final", {"val/bpd": 10**400}, "'final'"),
    ("best", GONE, "'best'"),
    ("best val/bpd", GONE, "'best'"),
    ("best val/mse", math.nan, "'best'"),
    ("skipped more", 1, "'skipped'"),
    ("skipped total", None, "'skipped'"),
    ("seconds", math.nan, "'seconds'"),
    ("pending", {"a": ZEROS, "b": torch.zeros(3).double()}, "'pending'"),
    ("pending", {"a": ZEROS.float()}, "'pending'"),
    ("ema", {"updates": math.inf}, "'ema'"),
    ("optimizer", 3, "'optimizer'"),
    ("optimizer state", {0: {"exp_avg": torch.zeros(9)}}, "'optimizer'"),
    ("optimizer state", {1: {}}, "'optimizer'"),
]


def put(values, path, value):
    """A copy of nested dicts with another value at one place, or none."""
    key, _, rest = path.partition(" ")
    value = put(values[key], rest, value) if rest else value
    return {k: v for k, v in {**values, key: value}.items() if v is not GONE}


def refused(function, *arguments):
    with pytest.raises(UserError) as refusal:
        function(*arguments)
    return str(refusal.value)


@pytest.mark.parametrize(("path", "value", "words"), FORGED, ids=lambda part: str(part)[:30])
def test_a_forged_checkpoint_is_no_traceback(path, value, words, finished):
    """Its file and what is wrong with it are named, by `vae` and by a run that resumes."""
    last = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    config = run_config(state["config"])
    save_checkpoint(last, put(state, path, value))
    expected = rf"^(resume: )?\S*last\.pt: .*{words}"
    assert re.search(expected, refused(load_resume_state, config, finished))
    if path.split()[0] in ("config", "model", "step", "final"):
        assert re.search(expected + ".*$", refused(load_run, finished))
    last.rename(last.with_name("previous.pt"))
    assert "resume: " in (said := refused(load_resume_state, config, finished))
    assert "previous.pt: " in said


def doubled(times):
    """A list that holds a list twice, which holds a list twice ...: a few bytes of a pickle."""
    value = 1
    for _ in range(times):
        value = [value, value]
    return value


def test_values_that_hold_another_many_times_are_refused(finished):
    """With 60 lists, looking at each value would fill the memory."""
    assert NOT_SETTINGS in refused(run_config, {"objective": doubled(12)})
    last = finished / "checkpoints" / "last.pt"
    save_checkpoint(last, {"format": doubled(17)})
    assert last.stat().st_size < 3000
    assert "no checkpoint of tensors and plain values" in refused(load_checkpoint, last)


@pytest.mark.parametrize("size", [5, 65536])
def test_weights_of_another_size_are_refused(size, finished):
    last = finished / "checkpoints" / "last.pt"
    forged = put(load_checkpoint(last), "config model latent_dim", size)
    save_checkpoint(last, forged)
    config = run_config(forged["config"])
    for arguments in ((load_run, finished), (load_resume_state, config, finished)):
        assert re.search(r"last\.pt: .*its 'model' is", refused(*arguments))


@pytest.mark.parametrize(
    ("given", "entity", "mode"),
    [
        ([], None, "auto"),
        (["wandb.entity=team"], "team", "auto"),
        (["wandb.mode=online", "wandb.entity=evil"], "evil", "online"),
    ],
)
def test_a_folder_does_not_decide_where_its_evaluation_is_uploaded(
    given, entity, mode, finished, monkeypatch
):
    last = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(last)
    state["config"]["wandb"] |= {"entity": "evil", "mode": "online", "project": "p"}
    save_checkpoint(last, state)
    monkeypatch.setenv("WANDB_API_KEY", WandbServer.key)
    wandb_run = MagicMock()
    monkeypatch.setattr("vae.runs.load.WandbRun", wandb_run)
    evaluate_and_record(load_run(finished, overrides=[*given, "metrics.parts=[]"]))
    settings = wandb_run.call_args.args[1]
    assert (settings.entity, settings.mode, settings.project) == (entity, mode, "p")


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
