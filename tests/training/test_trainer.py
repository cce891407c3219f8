"""The training loop: its steps, its end, its rows."""

import math
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad_norm_
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from tests.support.train_command import ROOT
from vae.data.loader import TrainingBatches
from vae.losses import BernoulliConfig, loss_terms, perceptual
from vae.models import ConvConfig, build_model
from vae.models.face_net import load_face_net
from vae.runs.compose import compose
from vae.training import TrainerConfig
from vae.training.base import CheckpointTrigger
from vae.training.optim import AdamConfig
from vae.training.trainer import Trainer, step_noise
from vae.utils.devices import autocast, computes_in_bf16, pick_device
from vae.utils.errors import UserError
from vae.utils.signals import Interrupts

CPU = torch.device("cpu")
LOSS = BernoulliConfig(name="bce", beta=1e-2, kl_reduction="latents")


SETTINGS = TrainerConfig(
    epochs=2, max_steps=None, precision="fp32", compile=False, device="cpu", num_threads=None,
    grad_clip=None, log_every=2, figures_every=1,
)  # fmt: skip
ADAM = AdamConfig("adam", 1e-3, 0.0, "constant", betas=[0.9, 0.999], eps=1e-8)


def make(on_epoch=lambda: None, optimizer=ADAM, **changes):
    """A trainer of 3 steps an epoch, and the rows that it reports."""
    torch.manual_seed(0)
    model = build_model(ConvConfig(name="conv", latent_dim=4, channels=[4, 8]), 16)
    images = np.random.default_rng(0).integers(0, 256, (26, 16, 16, 3), dtype=np.uint8)
    rows = []
    batches, config = TrainingBatches(images, 8, 0, True, CPU), replace(SETTINGS, **changes)
    trainer = Trainer(
        model, batches, LOSS, optimizer, config,
        on_row=rows.append, on_epoch=on_epoch, on_save=lambda: None,
    )  # fmt: skip
    return trainer, rows


def on_a_gpu(*choices):
    """A function that makes a trainer, on torch's stand-ins for a GPU's tensors."""
    sizes = ["model.channels=[4,8]", "data.image_size=16", "data.batch_size=8"]
    config = compose([*sizes, "trainer.precision=fp32", "trainer.epochs=2", *choices])
    model = build_model(config.model, 16)  # moved to a stand-in's device, it is a stand-in
    images = np.zeros((24, 16, 16, 3), dtype=np.uint8)
    device = torch.device("cuda")

    def start():
        on_device = model.to(device)
        config.loss.perceptual.load(device)
        batches = TrainingBatches(images, config.data.batch_size, 0, True, device)
        return Trainer(
            on_device, batches, config.loss, config.optimizer, config.trainer,
            on_row=print, on_epoch=lambda: None, on_save=lambda: None,
        )  # fmt: skip

    return start


@pytest.mark.parametrize("clip", [None, 0.02])
def test_a_step_equals_a_plain_adam_step(clip):
    """The same steps by hand, with torch's own Adam and a plain loop."""
    cosine = replace(ADAM, schedule="cosine")
    trainer, rows = make(log_every=1, optimizer=cosine, grad_clip=clip)
    trainer.fit(Interrupts())
    other, _ = make()
    model = other.model.train()
    losses, norms = [], []
    rates = [1e-3 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    adam = torch.optim.Adam(model.parameters())
    for step, adam.param_groups[0]["lr"] in enumerate(rates):
        images = list(other.batches.epoch(step // 3))[step % 3]
        logits, posterior = model(images, step_noise(0, step, (8, 4)))
        loss = loss_terms(LOSS, logits, images, posterior, posterior.mean).loss
        adam.zero_grad()
        loss.backward()
        norms.append(clip_grad_norm_(model.parameters(), clip or math.inf).item())
        adam.step()
        losses.append(loss.item())
    assert [row["train/loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
    assert [row["train/lr"] for row in rows] == pytest.approx(rates)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx(norms, rel=1e-4)
    assert clip is None or min(norms) > clip
    for a, b in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rows_average_the_interval_and_have_every_key():
    single, ones = make(log_every=1)
    single.fit(Interrupts())
    trainer, rows = make()
    trainer.fit(Interrupts())
    assert [row["step"] for row in rows] == [2, 3, 4, 6]  # an epoch of 3 ends its interval
    assert rows[0]["train/loss"] == pytest.approx(np.mean([r["train/loss"] for r in ones[:2]]))
    assert rows[2]["epoch"] == pytest.approx(4 / 3)
    assert rows[2]["images"] == 32
    assert set(rows[0]) >= {
        "step", "epoch", "images", "train/loss", "train/distortion", "train/rate",
        "train/penalty", "train/beta", "train/lr", "train/grad_norm", "train/skipped",
        "perf/images_per_second", "perf/data_fraction",
    }  # fmt: skip
    assert all(0 < row["perf/data_fraction"] < 1 for row in rows)


@pytest.mark.parametrize(
    ("epochs", "limit", "steps"), [(3, None, 9), (3, 4, 4), (None, 5, 5), (1, 50, 3)]
)
def test_training_stops_at_the_configured_length(epochs, limit, steps):
    ends = []
    trainer, rows = make(lambda: ends.append(trainer.step), epochs=epochs, max_steps=limit)
    trainer.fit(Interrupts())
    assert trainer.step == steps == rows[-1]["step"]
    assert ends == [*range(3, steps, 3), steps]


def test_bfloat16_trains_close_to_float32():
    exact, exact_rows = make()
    coarse, coarse_rows = make(precision="bf16")
    exact.fit(Interrupts())
    coarse.fit(Interrupts())
    assert coarse_rows[-1]["train/loss"] == pytest.approx(exact_rows[-1]["train/loss"], rel=0.02)
    assert coarse_rows[-1]["train/loss"] != exact_rows[-1]["train/loss"]
    assert all(p.dtype == torch.float32 for p in coarse.model.parameters())


def test_noise_is_a_function_of_seed_and_step():
    assert torch.equal(step_noise(1, 2, (3, 4)), step_noise(1, 2, (3, 4)))
    assert not torch.equal(step_noise(1, 2, (3, 4)), step_noise(2, 1, (3, 4)))
    many = torch.cat([step_noise(0, step, (64, 64)) for step in range(100)])
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01


def test_devices(monkeypatch):
    for kind in (torch.cuda, torch.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    assert pick_device("auto") == CPU
    with pytest.raises(UserError, match=r"trainer\.device: got 'cuda', but this machine has cpu"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


@pytest.mark.parametrize("able", ["avx512_bf16", "amx_bf16", "bf16"])
def test_auto_is_bf16_on_a_cpu_with_bf16(able, monkeypatch):
    found = {"avx512_bf16": False, able: True}  # bf16: Arm's bf16, which is not faster
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    with autocast("auto", CPU):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.float32 if able == "bf16" else torch.bfloat16)


@pytest.mark.parametrize("has_it", [True, False])
def test_auto_is_bf16_on_a_gpu_with_bf16(has_it, monkeypatch):
    def supported(including_emulation):
        return has_it or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert computes_in_bf16(torch.device("cuda")) == has_it
    assert not computes_in_bf16(torch.device("mps"))


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux lists what a CPU can do")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="an older torch cannot say")
def test_cpu_bf16_support_matches_the_system():
    words = set(Path("/proc/cpuinfo").read_text().split())
    assert computes_in_bf16(CPU) == bool(words & {"avx512_bf16", "amx_bf16"})


class Waits(TorchDispatchMode):
    """Record copies to and from a GPU that wait for it.

    Not those from pinned memory, as which it takes what was to be pinned. A stand-in's value
    cannot be read at all.
    """

    def __init__(self):
        super().__init__()
        self.pinned, self.noted = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        aten = torch.ops.aten
        if function is aten._pin_memory.default:
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        result = function(*args, **kwargs)
        if function in (aten._to_copy.default, aten.copy_.default):
            source = args[0] if function is aten._to_copy.default else args[1]
            waits_not = kwargs.get("non_blocking") and any(source is it for it in self.pinned)
            if source.device != result.device and not waits_not:
                self.noted.append(function)
        return result


@pytest.mark.parametrize(
    "choices",
    [
        ["optimizer=muon", "loss/schedule=warmup"],
        ["optimizer=adam", "trainer.grad_clip=0.1", "trainer.ema=0.9"],
        ["optimizer=adamw", "loss=mse", "model.norm=group"],
        ["model=residual", "loss=laplace", "loss/regularizer=free_bits"],
        ["loss=gaussian", "loss/regularizer=capacity"],
        ["loss/regularizer=tc"],
        ["loss/regularizer=tc", "loss.regularizer.estimator=weighted"],
        ["loss/regularizer=mmd", "trainer.ema=0.9"],
        ["loss=ms_ssim", "loss/regularizer=dip_i", "model.activation=silu"],
        ["loss/perceptual=ms_ssim", "loss/regularizer=dip_ii", "model.last_layer=subpixel"],
        ["loss/perceptual=face", "model.latent_shape=map"],
    ],
    ids=" ".join,
)
@pytest.mark.filterwarnings("ignore:Accessing the data pointer")  # copying a stand-in does
def test_no_step_synchronises_with_the_gpu_also_in_a_resumed_run(choices, monkeypatch):
    """On torch's stand-ins for a GPU's tensors, which have a shape and a device but no values."""

    def backward(loss):  # autograd's own threads want a GPU; what they do mirrors the forward pass
        for parameter in trainer.parameters:
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    if "loss/perceptual=face" in choices:  # read here: a stand-in has no values
        network = load_face_net()
        monkeypatch.setattr(perceptual, "_face_net", cache(network.to))
    rows = []
    start, resume = on_a_gpu(*choices), on_a_gpu(*choices)
    with FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
        trainer = start()
        assert waits.noted  # it saw the model go there
        waits.noted.clear()
        trainer._report = rows.append  # the one place that waits
        trainer.fit(Interrupts())
        assert len(trainer.accumulator.steps) == 6
        loss = trainer.accumulator.steps[0]["loss"]
        assert loss.is_cuda
        assert waits.noted == []
        with pytest.raises(Exception, match="scalar"):  # as a step that waits for it would
            loss.item()
        saved = tree_map_only(torch.Tensor, lambda value: value.cpu(), trainer.state())
        trainer = resume()
        trainer.load_state(saved)
        waits.noted.clear()
        assert trainer.optimizer.state
        for moments in trainer.optimizer.state.values():
            assert all(value.is_cuda for value in moments.values())
        for images in trainer.batches.epoch(0):  # stand-ins refuse to mix devices
            trainer.train_step(images)
        assert waits.noted == []
    assert len(rows) == 2


def test_compiling_is_reported_once(monkeypatch, caplog):
    compiled = mock.Mock(side_effect=lambda model, **_: model)
    monkeypatch.setattr(torch, "compile", compiled)
    trainer, _ = make(compile=True)
    with caplog.at_level("INFO"):
        trainer.fit(Interrupts())
    compiled.assert_called_once_with(trainer.model, dynamic=False, mode=None)
    assert caplog.text.count("first step, compiling included") == 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs with g++")
def test_a_compiled_run_follows_the_eager_run():
    rows = []
    for compiled in (False, True):
        trainer, found = make(compile=compiled)
        trainer.fit(Interrupts())
        rows.append([[row[f"train/{k}"] for k in ("loss", "rate", "grad_norm")] for row in found])
    # Not to the last digits: a gradient near 0 may get another sign by rounding, and Adam's
    # first steps are of the same length whatever the gradient's.
    np.testing.assert_allclose(*rows, rtol=1e-3)


def test_a_plain_run_imports_no_unused_package(tmp_path):
    """Each of these takes half a second to two; optimizers would import torch's compiler."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import train, torch
from vae.runs.compose import compose
from vae.utils.registry import choices
sys.argv = ["train.py", "experiment=debug", "trainer.max_steps=1", "wandb.mode=disabled"]
train.main()
for name in choices("optimizer"):
    p = torch.nn.Parameter(torch.ones(3))
    o = compose([f"optimizer={{name}}"]).optimizer.build([p])
    o.zero_grad(); p.sum().backward(); o.step(); o.load_state_dict(o.state_dict())
    assert p[0] < 1
slow = {{"torch._dynamo", "torchvision", "optuna", "matplotlib.pyplot", "sklearn", "wandb"}}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert len(list(tmp_path.glob("outputs/*/*/figures/*.png"))) > 0  # it did all that a run does


MANY = "9" * 5000  # digits, which Python would not read


@pytest.mark.parametrize(
    "every", ["0", "-5", "5.5", "min", "10 h", "nan", "", "1e3", MANY, f"{MANY}min", f"1.{MANY}min"]
)
def test_invalid_intervals_are_refused(every):
    with pytest.raises(UserError, match=r"trainer\.checkpoint_every: got .* 10min"):
        CheckpointTrigger(every)


def test_a_checkpoint_is_due_every_so_many_steps():
    saving = CheckpointTrigger("3")
    assert [step for step in range(1, 10) if saving.is_due(step)] == [3, 6, 9]


@pytest.mark.parametrize(("every", "seconds"), [("2min", 120), ("0.5min", 30), ("10 min", 600)])
def test_a_checkpoint_is_due_after_so_many_minutes(every, seconds):
    with mock.patch("time.monotonic", return_value=1000.0) as clock:
        saving = CheckpointTrigger(every)
        clock.return_value += seconds - 1
        assert not saving.is_due(1)
        clock.return_value += 1
        assert saving.is_due(1)
        saving.saved()
        assert not saving.is_due(2)
