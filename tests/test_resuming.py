"""What may go on with a run: configurations compared key by key."""

from dataclasses import asdict

import pytest

from vae.composing import compose
from vae.resuming import changes


def settings(*overrides):
    return asdict(compose(list(overrides)))


def test_nothing_has_changed():
    assert changes(settings(), settings("wandb.mode=offline", "trainer.epochs=9")) == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=5", [("seed", 0, 5)]),
        ("model.norm=group", [("model.norm", "batch", "group")]),
        (
            "loss/schedule=warmup",
            [("loss.schedule.epochs", None, 1.0), ("loss.schedule.name", "constant", "warmup")],
        ),
        ("data.root=elsewhere", []),  # the same images
    ],
)
def test_what_has_changed_is_named(override, expected):
    assert changes(settings(), settings(override)) == expected


def test_what_an_older_version_did_not_know_is_as_by_default():
    before = settings()
    del before["loss"]["schedule"], before["loss"]["regularizer"], before["model"]["norm"]
    assert changes(before, settings()) == []
    assert changes(before, settings("model.norm=group")) == [("model.norm", "batch", "group")]
    now = settings("loss/regularizer=capacity")
    assert ("loss.regularizer.name", "kl", "capacity") in changes(before, now)


def test_other_models_are_told_apart():
    found = changes(settings(), settings("model=residual"))
    assert found == [("model.name", "conv", "residual"), ("model.norm", "batch", None)]
