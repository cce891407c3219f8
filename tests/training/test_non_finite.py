"""Non-finite losses and gradients: updates are skipped; many in a row end the run."""

import copy
import math

import numpy as np
import pytest
import torch

from tests.training.test_trainer import make
from vae.runs.checkpoint_schema import matches
from vae.runs.compose import compose
from vae.training import trainer as training
from vae.training.base import NotFiniteError
from vae.training.optim import OptimizerConfig, state_of_a_step
from vae.utils.registry import choices
from vae.utils.signals import Interrupts


def poisoned(*steps, **changes):
    """A trainer that gets images of NaN at these steps, and its rows."""
    trainer, rows = make(**changes)
    update = trainer.train_step
    trainer.train_step = lambda images: update(
        images * float("nan") if trainer.step in steps else images
    )
    return trainer, rows


class FusedSGDConfig(OptimizerConfig):
    """torch leaves its first momentum uninitialised where the first update is skipped."""

    kind = torch.optim.SGD

    def settings(self):
        return {**super().settings(), "momentum": 0.9, "fused": True}


class AdafactorConfig(OptimizerConfig):
    """Its state has neither the weights' shapes nor is it scalar."""

    kind = torch.optim.Adafactor


class Averaging(torch.optim.Optimizer):
    """Knows nothing of skipped updates, makes new tensors for its state, counts in Python."""

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, {"lr": lr})

    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                state["mean"] = 0.9 * state.get("mean", 0) + parameter.grad
                parameter.data -= group["lr"] * state["mean"]


class AveragingConfig(OptimizerConfig):
    kind = Averaging


OPTIMIZERS = {
    name: compose(
        [f"optimizer={name}", "optimizer.lr=0.01", "optimizer.weight_decay=0.1"]
    ).optimizer
    for name in choices("optimizer")
}
for kind in (FusedSGDConfig, AdafactorConfig, AveragingConfig):
    OPTIMIZERS[kind.__name__] = kind(kind.__name__, 0.01, 0.1, "constant")


def everything(trainer):
    """The weights, BatchNorm's statistics and the optimizer's state."""
    states = trainer.optimizer.state_dict()["state"].values()
    moments = [torch.as_tensor(value) for state in states for value in state.values()]
    return [*trainer.model.state_dict().values(), *moments]


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_skipped_update_changes_no_state(name, clip):
    trainer, finite = (make(grad_clip=clip, optimizer=OPTIMIZERS[name])[0] for _ in range(2))
    good, other, _ = trainer.batches.epoch(0)
    bad = good.clone()
    bad[3, 1, 2, 5] = float("inf")  # one pixel of one image
    norms = [trainer.train_step(images)["grad_norm"] for images in (bad, good, bad, other)]
    assert [math.isfinite(norm) for norm in norms] == [False, True, False, True]
    for images in (good, other):
        finite.train_step(images)
    found, expected = everything(trainer), everything(finite)
    assert len(found) == len(expected) > 20
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("where", ["loss", "rate", "another process"])
def test_a_non_finite_loss_skips_the_update(where, monkeypatch):
    """Its gradient may be finite; and all processes are to skip the same updates."""
    trainer, _ = make()
    images = next(iter(trainer.batches.epoch(0)))
    trainer.train_step(images)
    before = copy.deepcopy(everything(trainer))
    all_mean, of = training.distributed.all_mean, training.loss_terms

    def infinite_elsewhere(values):
        return {**all_mean(values), "loss": torch.tensor(math.inf)}

    def infinite(*args, **kwargs):
        terms = of(*args, **kwargs)
        return terms._replace(**{where: getattr(terms, where) + math.inf})

    if where == "another process":
        monkeypatch.setattr(training.distributed, "all_mean", infinite_elsewhere)
    else:
        monkeypatch.setattr(training, "loss_terms", infinite)
    assert math.isfinite(trainer.train_step(images)["grad_norm"])
    assert all(torch.equal(a, b) for a, b in zip(before, everything(trainer), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_state_of_other_parameters_is_refused(name):
    trainer, _ = make(max_steps=2, optimizer=OPTIMIZERS[name])
    trainer.fit(Interrupts())
    shapes = [parameter.shape for parameter in trainer.parameters]
    expected = state_of_a_step(trainer.optimizer_config, shapes)
    moments = trainer.optimizer.state_dict()["state"]
    assert matches(moments, expected)
    last = list(moments[0])[-1]
    for change in (
        lambda moments: moments[0].pop(last),
        lambda moments: moments[0].update({last: torch.zeros(5)}),
        lambda moments: moments[1].update(other=torch.zeros(())),
    ):
        damaged = copy.deepcopy(moments)
        change(damaged)
        assert not matches(damaged, expected)


def test_skipped_updates_are_counted_and_excluded():
    trainer, ones = poisoned(1, 4, log_every=1)
    trainer.fit(Interrupts())
    assert [row["train/skipped"] for row in ones] == [0, 1, 1, 1, 2, 2]
    assert ["train/loss" in row for row in ones] == [True, False, True, True, False, True]
    trainer, rows = poisoned(1, 4, log_every=3)
    trainer.fit(Interrupts())
    for row, singles in zip(rows, (ones[:3], ones[3:]), strict=True):
        losses = [single["train/loss"] for single in singles if "train/loss" in single]
        assert row["train/loss"] == pytest.approx(np.mean(losses))
    assert all(math.isfinite(value) for row in ones + rows for value in row.values())


@pytest.mark.parametrize("log_every", [1, 4])
def test_many_skipped_updates_in_a_row_end_the_run(log_every):
    # across the end of an epoch, and of an interval
    trainer, rows = poisoned(1, 2, 4, 5, 6, log_every=log_every, epochs=4)
    message = r"step 4 \(epoch 1, batch 1\): loss = nan, .*, and so 3 times in a row"
    with pytest.raises(NotFiniteError, match=message):
        trainer.fit(Interrupts())
    assert [row["train/skipped"] for row in rows][:2] == ([0, 1] if log_every == 1 else [2, 2])
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_counts_survive_a_checkpoint():
    first, _ = poisoned(1, 4, 5, max_steps=6)
    first.fit(Interrupts())
    again, _ = poisoned(6, epochs=4)
    again.load_state(first.state())
    with pytest.raises(NotFiniteError, match=r"step 4 \(epoch 1, batch 1\): loss = nan"):
        again.fit(Interrupts())
    assert again.guard.total == 4
