"""Optimisers against torch's own, step by step."""

import subprocess
import sys

import pytest
import torch

from vae.errors import UserError
from vae.optimizers import OptimizerConfig, build_optimizer, learning_rate


def config(name="adam", **changes):
    settings = {
        "lr": 0.01,
        "betas": [0.8, 0.95],
        "eps": 1e-6,
        "weight_decay": 0.1,
        "schedule": "constant",
        **changes,
    }
    return OptimizerConfig(name=name, **settings)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_steps_are_torchs(name, kind):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = build_optimizer(config(name), ours.parameters())
    reference = kind(theirs.parameters(), lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for _ in range(5):
        x = torch.randn(8, 4)
        for model, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert mine.state_dict().keys() == reference.state_dict().keys()
    reference.load_state_dict(mine.state_dict())  # the same format


def test_the_compiler_stays_out():
    """Start-up: neither making an optimiser nor a step may import two seconds of compiler."""
    script = """
import sys, torch
from vae.optimizers import OptimizerConfig, build_optimizer
p = torch.nn.Parameter(torch.ones(3))
o = build_optimizer(OptimizerConfig("adam", 1e-3, [0.9, 0.999], 1e-8, 0.0, "constant"), [p])
o.zero_grad(); p.sum().backward(); o.step(); o.load_state_dict(o.state_dict())
assert p[0] < 1
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", float("nan")),
        ("betas", [0.9]),
        ("betas", [0.9, 1.0]),
        ("eps", 0),
        ("weight_decay", -1),
        ("schedule", "linear"),
    ],
)
def test_ranges(key, value):
    with pytest.raises(UserError, match=rf"optimizer\.{key}: got"):
        config(**{key: value})


def test_unknown_names():
    with pytest.raises(UserError, match=r"optimizer\.name: got 'sgd'"):
        config("sgd")


def test_schedules_against_torchs():
    """Cosine is CosineAnnealingLR down to 0 over the run."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    sgd = torch.optim.SGD([parameter], lr=0.01)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=20)
    for step in range(20):
        expected = reference.get_last_lr()[0]
        assert learning_rate(config(schedule="cosine"), step, 20) == pytest.approx(expected)
        assert learning_rate(config(schedule="constant"), step, 20) == 0.01
        sgd.step()
        reference.step()
