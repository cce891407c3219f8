"""Optimizers against torch's own, step by step."""

import math
from dataclasses import replace

import pytest
import torch

from vae.utils.registry import choices


def config(name="adam", **changes):
    settings = {
        "lr": 0.01,
        "betas": [0.8, 0.95],
        "eps": 1e-6,
        "weight_decay": 0.1,
        "schedule": "constant",
        **changes,
    }
    return choices("optimizer")[name](name=name, **settings)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_steps_equal_torchs(name, kind):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Linear(4, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    mine = config(name).build(ours.parameters())
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


def test_warm_up():
    """lr/n, 2 lr/n, ..., then as without it, the cosine over what is left."""
    constant = config(lr=1.0, warmup_steps=4)
    rates = [constant.learning_rate(step, 10) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    cosine = replace(constant, schedule="cosine")
    after = [cosine.learning_rate(step, 10) for step in range(4, 10)]
    assert after == pytest.approx([(1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])
    longer = replace(cosine, warmup_steps=50)  # than the run
    assert longer.learning_rate(9, 10) == 0.2
