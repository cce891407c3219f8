"""Resuming: configurations are compared key by key."""

from dataclasses import asdict

import pytest

from tests.support.train_command import TINY, call_train
from vae.runs.checkpoint import config_changes
from vae.runs.compose import compose, run_config
from vae.runs.run_dir import read_summary


def settings(*overrides):
    return asdict(compose(list(overrides)))


def test_equal_configurations_have_no_changes():
    assert config_changes(settings(), settings("wandb.mode=offline", "trainer.epochs=9")) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=5", [("seed", 0, 5)]),
        ("model.norm=group", [("model.norm", "batch", "group")]),
        (
            "loss/schedule=warmup",
            [("loss.schedule.name", "constant", "warmup")],
        ),
        ("data.root=elsewhere", []),  # the same images
    ],
)
def test_changed_keys_are_named(override, expected):
    assert config_changes(settings(), settings(override)) == expected


def test_missing_keys_have_their_defaults():
    older = settings()
    del older["loss"]["schedule"], older["loss"]["regularizer"], older["model"]["norm"]
    before = run_config(older).as_dict()
    assert config_changes(before, settings()) == []
    assert config_changes(before, settings("model.norm=group")) == [
        ("model.norm", "batch", "group")
    ]
    now = settings("loss/regularizer=capacity")
    assert ("loss.regularizer.name", "kl", "capacity") in config_changes(before, now)


def test_different_models_are_distinguished():
    found = config_changes(settings(), settings("model=residual"))
    assert found == [("model.name", "conv", "residual"), ("model.norm", "batch", None)]


def test_a_run_past_its_new_end_is_unchanged(tmp_path, monkeypatch, capsys):
    first = [*TINY, "hydra.run.dir=run"]
    assert call_train(first, tmp_path, monkeypatch, capsys)[0] == 0
    before = read_summary(tmp_path / "run")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text()
    again = ["resume=run", "trainer.max_steps=5"]
    code, out, err = call_train(again, tmp_path, monkeypatch, capsys)
    assert code == 1
    assert f"at step {before['step']} already" in err
    assert "would end at step 5" in err
    assert "Traceback" not in out + err
    assert read_summary(tmp_path / "run") == before
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == rows
