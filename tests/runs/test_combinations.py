"""Every pair of options takes two steps, or is refused with a reason."""

import itertools
import math

import numpy as np
import pytest
import torch

from tests.support.train_command import call_train
from vae.losses import beta_at
from vae.runs.compose import CONF, compose
from vae.runs.trainer_setup import build_trainer, validate
from vae.utils.distributed import SINGLE_PROCESS
from vae.utils.errors import UserError
from vae.utils.signals import Interrupts

GROUPS = ("model", "loss", "loss/regularizer", "loss/schedule", "optimizer")
CHOICES = [
    *(
        [f"{group}={path.stem}" for path in sorted((CONF / group).glob("*.yaml"))]
        for group in GROUPS
    ),
    ["model.norm=group"],
    ["loss.kl_reduction=pixels"],
    ["optimizer.schedule=cosine"],
    ["optimizer.warmup_steps=2"],
    ["trainer.ema=0.9"],
    ["trainer.precision=bf16"],
    ["trainer.grad_clip=1.0"],
]
PAIRS = [
    pytest.param(pair, marks=[] if all("loss" in of for of in pair) else pytest.mark.slow)
    for two in itertools.combinations(CHOICES, 2)
    for pair in itertools.product(*two)
]
REFUSED = {
    ("loss/regularizer=capacity", "loss/schedule=warmup"): "leave one of them out",
    ("loss/regularizer=capacity", "loss/schedule=cyclical"): "leave one of them out",
    ("model=residual", "model.norm=group"): "norm",  # it has no other
}
SMALL = [
    *("model.channels=[4,8]", "model.latent_dim=5", "data.image_size=16", "data.batch_size=8"),
    *("trainer.epochs=null", "trainer.max_steps=2", "trainer.log_every=1"),
]


def test_combinations_are_many():
    assert [len(names) for names in CHOICES[:5]] == [2, 4, 5, 3, 3]
    assert len(PAIRS) > 200


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_every_pair_trains_or_is_refused(pair):
    if pair in REFUSED:
        with pytest.raises(UserError, match=REFUSED[pair]):
            compose([*SMALL, *pair])
        return
    config = compose([*SMALL, "trainer.precision=fp32", *pair])
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    rows = []
    trainer = build_trainer(
        config, images, torch.device("cpu"), None, SINGLE_PROCESS,
        on_row=rows.append, on_epoch=lambda _: None, on_save=lambda: None,
    )  # fmt: skip
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.fit(Interrupts())
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[1]["train/skipped"] == 0
    assert rows[1]["train/beta"] == beta_at(config.loss, 1 / 3)
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))
    metrics, _ = validate(trainer, images, Interrupts())
    assert metrics["val/rate"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize("choice", list(itertools.chain(*CHOICES)), ids=str)
def test_every_choice_completes_a_run(choice, tmp_path, monkeypatch, capsys):
    """20 steps, with figures and checkpoints."""
    arguments = ["experiment=debug", "wandb.mode=disabled", "trainer.num_threads=1", choice]
    code, _, err = call_train([*arguments, "hydra.run.dir=run"], tmp_path, monkeypatch, capsys)
    assert code == 0, err
    assert (tmp_path / "run" / "figures" / "samples.png").exists()
    assert '"finished"' in (tmp_path / "run" / "summary.json").read_text()
