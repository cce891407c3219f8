"""Runs of two processes against runs of one.

Run by torchrun, this file is what the two processes of `ranks` do.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.run_files import timeless_rows
from tests.support.sweep_processes import validated, wait_until
from tests.support.train_command import ENDLESS, ROOT, TINY, call_train
from vae.losses import loss_terms
from vae.models import ConvConfig, build_model
from vae.runs.checkpoint import load_checkpoint
from vae.runs.compose import compose
from vae.training.metrics import evaluate_split
from vae.utils import distributed
from vae.utils.errors import UserError
from vae.utils.registry import choices

CPU = torch.device("cpu")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
RUN = [*TINY, "data.flip=true", "trainer.log_every=2", "trainer.grad_clip=0.05"]
# A constant rate, or a longer run would be another; a small one, for tolerances that are small:
# at the usual rates the last digits of a sum come to be the fourth ones within a hundred steps.
RUN += ["optimizer.schedule=constant", "optimizer.lr=1e-4"]
GROUP = [*RUN, "model.norm=group"]  # no image sees the other images of its batch


def torchrun(arguments, cwd):
    """Start `torchrun ARGUMENTS`: two processes with one thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", *arguments],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def train_on_two(arguments, cwd):
    """`torchrun --nproc-per-node=2 train.py ARGUMENTS`: exit code, stdout, stderr."""
    process = torchrun([str(ROOT / "train.py"), *arguments], cwd)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Train by one process or by two in the test's folder; check that it ends well."""

    def train(processes, *arguments):
        if processes == 1:
            code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)
        else:
            code, _, err = train_on_two(arguments, tmp_path)
        assert code == 0, err

    return train


def assert_same_course(a, b, since=0):
    """Same rows from there on within rounding, and the same weights."""
    pairs = zip(timeless_rows(a)[since:], timeless_rows(b)[since:], strict=True)
    assert all(one == pytest.approx(other, rel=1e-4) for one, other in pairs)
    one, other = (load_checkpoint(f / "checkpoints" / "last.pt") for f in (a, b))
    assert one["step"] == other["step"]
    torch.testing.assert_close(one["model"], other["model"], rtol=1e-3, atol=1e-4)


# What two processes compute


def a_model():
    torch.manual_seed(0)
    return build_model(ConvConfig(name="conv", latent_dim=4, channels=[4, 8], norm="group"), 16)


def validation_batches():
    """Three batches for two processes, of different sizes."""
    return torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1)).split([5, 4, 1])


LOSSES = {
    choice: compose([choice, "loss.beta=0.5"]).loss
    for group in ("loss", "loss/regularizer", "loss/perceptual")
    for choice in [f"{group}={name}" for name in choices(group) if name != "vgg"]  # a download
}


def gradients(loss):
    """Gradients of a batch's loss and its terms, averaged over the processes."""
    model = a_model()
    forward = distributed.data_parallel(model)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(6, 3, 16, 16, generator=generator)
    noise = torch.randn(6, 4, generator=generator)
    part = distributed.local_slice(6)
    logits, posterior = forward(images[part], noise[part])
    terms = loss_terms(
        loss, logits, images[part], posterior, posterior.rsample(noise[part]),
        training_images=50, gather=distributed.all_gather,
    )  # fmt: skip
    terms.loss.backward()
    found = torch.stack([term for term in terms if term is not None]).detach()
    mean = distributed.all_sum(found) / distributed.world_size()
    return [parameter.grad for parameter in model.parameters()], mean


def work_of_a_rank(out):
    with distributed.process_group():
        rank = distributed.rank()
        model = torch.nn.BatchNorm1d(1)
        model.running_mean += rank + 1
        distributed.copy_buffers(model)
        results = {
            "losses": {name: gradients(loss) for name, loss in LOSSES.items()},
            "evaluations": {
                name: evaluate_split(a_model(), validation_batches(), loss)
                for name, loss in LOSSES.items()
            },
            "buffer": model.running_mean,
        }
        torch.save(results, Path(out, f"{rank}.pt"))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The results of two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    process = torchrun([__file__, str(folder)], folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_and_metrics_equal_those_of_one_process(name, ranks):
    expected_grads, expected_terms = gradients(LOSSES[name])
    expected = evaluate_split(a_model(), validation_batches(), LOSSES[name])
    for rank in ranks:
        grads, terms = rank["losses"][name]
        torch.testing.assert_close(terms, expected_terms, rtol=1e-5, atol=1e-6)
        rounding = 5e-6 if name == "loss/perceptual=face" else 1e-6  # of thirty more layers
        torch.testing.assert_close(grads, expected_grads, rtol=1e-3, atol=rounding)
        found = rank["evaluations"][name]
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)
        assert found.metrics == ranks[0]["evaluations"][name].metrics  # the ranks decide alike
        for statistic in ("kl_per_latent", "mean_of_means", "std_of_means"):
            torch.testing.assert_close(getattr(found, statistic), getattr(expected, statistic))
    assert any(grad.abs().max() > 1e-4 for grad in expected_grads)


def test_validation_is_with_the_buffers_of_rank_zero(ranks):
    assert [rank["buffer"].tolist() for rank in ranks] == [[1], [1]]


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed.local_device(torch.device("cuda")) == torch.device("cuda:1")
    assert distributed.local_device(CPU) == CPU
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = r"trainer\.device: 2 processes need a GPU each, and this machine has 1 .*per-node=1"
    with pytest.raises(UserError, match=message):
        distributed.local_device(torch.device("cuda"))
    with pytest.raises(UserError, match=r"trainer\.device"):
        distributed.local_device(torch.device("mps"))


# Whole runs


@pytest.mark.slow
def test_torchrun_makes_one_run_folder(tmp_path):
    code, out, err = train_on_two([*GROUP, "wandb.mode=offline"], tmp_path)
    assert code == 0, err
    (folder,) = (tmp_path / "outputs").glob("*/*")
    assert {p.name for p in tmp_path.iterdir()} - {"home"} == {"data", "outputs"}
    assert {p.name for p in folder.iterdir()} - {"code.patch"} == {
        ".hydra", ".lock", "train.log", "metrics.jsonl", "summary.json", "provenance.json",
        "checkpoints", "figures", "wandb",
    }  # fmt: skip
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert len([p for p in (tmp_path / "data" / "cache").iterdir() if p.is_dir()]) == 1
    for words in ("images: ", "packed 80 images", "2 processes", "epoch 1:", "epoch 2:"):
        assert out.count(words) == 1, words
        assert (folder / "train.log").read_text().count(words) == 1, words
    assert [row["step"] for row in timeless_rows(folder)] == [2, 4, 4, 6, 8, 8]
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_objectives_are_measured_at_the_end_of_a_run_of_two_processes(tmp_path, train):
    settings = [*GROUP, "objective=[val/iw_bpd,val/attribute_separability]"]
    found = []
    for processes in (1, 2):
        train(processes, *settings, f"hydra.run.dir={processes}")
        rows = timeless_rows(tmp_path / str(processes))
        assert sum("val/iw_bpd" in row for row in rows) == 1
        found.append(json.loads((tmp_path / f"{processes}/summary.json").read_text())["objective"])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        "model.norm=group",
        "loss=gaussian",
        "loss/regularizer=tc",
        "loss/regularizer=mmd",
        "trainer.ema=0.5",
        "trainer.compile=true",
    ],
)
def test_two_processes_follow_one_process_with(setting, tmp_path, train):
    """Losses of the whole batch, an average of the weights, and a compiled model."""
    for processes in (1, 2):
        train(processes, *GROUP, setting, f"hydra.run.dir={processes}")
    assert_same_course(tmp_path / "1", tmp_path / "2")


@pytest.mark.slow
def test_batch_norm_of_half_a_batch_stays_close_to_that_of_a_batch(tmp_path, train):
    """On a CPU each rank normalises over its own rows: with batches of 32, over 16 of them.

    Statistics of 16 images are noisier than those of 32. Measured after a hundred steps with
    three seeds: up to 0.25 % of bpd and 6.3 % of the rate. The bounds are four times these.
    """
    arguments = [
        "experiment=debug", "trainer.epochs=null", "trainer.max_steps=100",
        "trainer.figures_every=100", "trainer.precision=fp32", "trainer.num_threads=1",
        "data.num_workers=1", "wandb.mode=disabled",
    ]  # fmt: skip
    for processes in (1, 2):
        train(processes, *arguments, f"hydra.run.dir={processes}")
    one, two = (timeless_rows(tmp_path / name)[-1] for name in ("1", "2"))
    assert one["step"] == two["step"] == 100
    assert two["val/bpd"] == pytest.approx(one["val/bpd"], rel=0.01)
    assert two["val/rate"] == pytest.approx(one["val/rate"], rel=0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_another_number_of_processes_resumes_a_run(first, then, tmp_path, train):
    train(first, *GROUP, "hydra.run.dir=parts", "trainer.max_steps=3")  # within an epoch
    train(then, "resume=parts", "trainer.max_steps=8")
    train(1, *GROUP, "hydra.run.dir=whole", "trainer.max_steps=8")
    assert_same_course(tmp_path / "parts", tmp_path / "whole", since=-3)
    assert {p.name for p in tmp_path.iterdir()} - {"home"} == {"data", "parts", "whole"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data.batch_size=15"], "error: data.batch_size: got 15, but it takes a multiple of"),
        (["model.latent_dmi=3"], "Could not override 'model.latent_dmi'"),
        (["-m", "seed=1,2"], "error: -m: torchrun is for one run"),
        (["optimizer.lr=1e9"], "error: training stopped at step"),
        (["model.latent_dim=65536", "model.channels=[65536]"], "is a model that needs more memory"),
    ],
)
def test_errors_are_printed_once(arguments, words, tmp_path):
    code, out, err = train_on_two([*TINY, *arguments], tmp_path)
    assert code != 0
    assert (out + err).count(words) == 1
    assert "rank1" not in err
    assert 'train.py", line' not in err  # no traceback but torchrun's own
    assert not (tmp_path / "multirun").exists()
    stopped_in_training = "optimizer.lr=1e9" in arguments
    assert (tmp_path / "outputs").exists() == stopped_in_training


def start_endless(cwd):
    """A run without end, when it has measured twice: torchrun's process, its processes by rank."""
    process = torchrun([str(ROOT / "train.py"), *TINY, *ENDLESS, "hydra.run.dir=run"], cwd)
    wait_until(lambda: process.poll() is not None or len(validated(cwd / "run")) >= 2)
    assert process.poll() is None, process.communicate()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for rank in (0, 1):
            if f"RANK={rank}".encode() in variables:
                ranks[rank] = child
    return process, ranks


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize(
    ("number", "target"),
    [(signal.SIGTERM, "torchrun"), (signal.SIGTERM, 0), (signal.SIGINT, 1)],
)
def test_an_interrupt_to_any_rank_saves(number, target, tmp_path):
    process, ranks = start_endless(tmp_path)
    os.kill(ranks.get(target, process.pid), number)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert (
        len(re.findall(r"resume with  torchrun --nproc-per-node=2 \S+train.py resume=", out)) == 1
    )
    assert "[rank" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["step"] == summary["step"]


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run(rank, tmp_path):
    process, ranks = start_endless(tmp_path)
    os.kill(ranks[rank], signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{child}").exists() for child in ranks.values())
    said = "another process of this run has ended, or cannot be reached"
    assert (out + err).count(said) == rank  # rank 0 tells of the other one
    assert 'train.py", line' not in err
    if rank == 1:
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["status"] == "failed"
        assert said in summary["error"]
        assert "; training stopped at step" in summary["error"]


if __name__ == "__main__":
    work_of_a_rank(*sys.argv[1:])
