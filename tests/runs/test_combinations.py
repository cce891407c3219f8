"""Every pair of options is trained together in some run, or is refused with a reason."""

import itertools
import math

import pytest
import torch

from tests.support.run_files import rows, weights
from tests.support.train_command import TINY, call_train
from tests.support.vgg import write_vgg
from vae.losses import beta_at, perceptual
from vae.runs.checkpoint import load_checkpoint
from vae.runs.compose import CONF, compose
from vae.runs.run_dir import read_summary
from vae.utils.errors import UserError
from vae.utils.registry import choices

GROUPS = (
    *("model", "loss", "loss/regularizer", "loss/schedule", "loss/perceptual"),
    "optimizer",
)
MODEL = {  # settings that some models have, and their values
    "norm": ("batch", "group"),
    "activation": ("leaky_relu", "silu"),
    "last_layer": ("upsample", "subpixel"),
    "latent_shape": ("vector", "map"),
}
CHOICES = [
    *([f"{group}={name}" for name in sorted(choices(group))] for group in GROUPS),
    *([f"no model.{key}", *(f"model.{key}={value}" for value in MODEL[key])] for key in MODEL),
    ["loss.kl_reduction=latents", "loss.kl_reduction=pixels"],
    ["optimizer.schedule=constant", "optimizer.schedule=cosine"],
    ["optimizer.warmup_steps=0", "optimizer.warmup_steps=2"],
    ["trainer.ema=null", "trainer.ema=0.9"],
    ["trainer.precision=fp32", "trainer.precision=bf16"],
    ["trainer.grad_clip=null", "trainer.grad_clip=1.0"],
]
ALL_PAIRS = {p for two in itertools.combinations(CHOICES, 2) for p in itertools.product(*two)}
REFUSED = {
    (f"loss/regularizer={name}", f"loss/schedule={schedule}"): "leave one of them out"
    for name, kind in choices("loss/regularizer").items()
    for schedule in choices("loss/schedule")
    if kind.grows and schedule != "constant"
} | {
    (f"model={name}", f"model.{key}={value}"): key
    for name, kind in choices("model").items()
    for key, values in MODEL.items()
    for value in values
    if key not in kind.__dataclass_fields__
}


def covering_runs():
    """Return few combinations of one choice each, such that every pair not refused is in one."""
    left, runs = ALL_PAIRS - set(REFUSED), []
    while left:
        run = list(min(left))
        for options in CHOICES:
            if set(options) & set(run):
                continue
            allowed = [o for o in options if not any(set(r) <= {*run, o} for r in REFUSED)]
            run.append(max(allowed, key=lambda option: len(left & pairs([*run, option]))))
        left -= pairs(run)
        runs.append(sorted(run))
    return runs


def pairs(run):
    """All pairs of a run's choices, each in the order of CHOICES."""
    in_order = [option for options in CHOICES for option in options if option in run]
    return set(itertools.combinations(in_order, 2))


RUNS = covering_runs()


def test_the_runs_cover_all_pairs():
    for group in GROUPS:
        assert {path.stem for path in (CONF / group).glob("*.yaml")} == choices(group).keys()
    assert set().union(*map(pairs, RUNS)) == ALL_PAIRS - set(REFUSED)
    assert len(ALL_PAIRS) > 300
    assert len(RUNS) < 60  # not many more than the pairs of the two largest groups


@pytest.mark.parametrize(("pair", "reason"), REFUSED.items(), ids=str)
def test_contradictory_options_are_refused(pair, reason):
    with pytest.raises(UserError, match=reason):
        compose([*TINY, *pair])


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_every_pair_of_options_trains(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    write_vgg(tmp_path)
    monkeypatch.setattr(perceptual, "SIDE", 64)  # pixels, of faces for the face network: faster
    options = [option for option in run if "=" in option]
    keys = {option.partition("=")[0] for option in options}
    arguments = [o for o in TINY if o.partition("=")[0] not in keys]
    arguments += [*options, "trainer.log_every=1", "model.latent_dim=16"]  # of a map of 4x4 places
    code, _, err = call_train([*arguments, "hydra.run.dir=run"], tmp_path, monkeypatch, capsys)
    assert code == 0, err
    steps = [row for row in rows(tmp_path / "run") if "train/loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert all(math.isfinite(value) for row in steps for value in row.values())
    loss, values = compose(arguments).loss, 3 * 16**2
    divisor = values if loss.kl_reduction == "pixels" else 16
    for row in steps:
        weighted = row["train/beta"] * row["train/penalty"] / divisor
        perceptual_term = row.get("train/perceptual", 0.0)
        assert ("train/perceptual" in row) == (loss.perceptual.name != "none")
        expected = row["train/distortion"] / values + perceptual_term + weighted
        assert row["train/loss"] == pytest.approx(expected, rel=1e-6, abs=1e-6)  # terms cancel
        assert row["train/skipped"] == 0
        assert row["train/beta"] == pytest.approx(beta_at(loss, (row["step"] - 1) / 4))
    last = weights(tmp_path / "run")
    previous = load_checkpoint(tmp_path / "run" / "checkpoints" / "previous.pt")["model"]
    trained = [name for name in last if name.endswith("weight")]
    assert not any(torch.equal(last[name], previous[name]) for name in trained)
    assert read_summary(tmp_path / "run")["status"] == "finished"
    assert (tmp_path / "run" / "figures" / "samples.png").exists()
