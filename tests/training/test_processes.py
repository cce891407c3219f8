"""Runs of two processes against runs of one.

Run by torchrun, this file is what the two processes of `shares` do.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.train_command import ROOT, TINY, call_train
from vae.data.loader import TrainingBatches
from vae.losses import BernoulliConfig, GaussianConfig, LossConfig, loss_terms
from vae.losses.regularizers import (
    CapacityConfig,
    FreeBitsConfig,
    MMDConfig,
    TotalCorrelationConfig,
)
from vae.models import ConvConfig, build_model
from vae.runs.checkpoint import load_checkpoint
from vae.training.metrics import evaluate_split
from vae.training.muon import orthogonalize
from vae.training.optim import OptimizerConfig, build_optimizer
from vae.training.processes import Sharding, balance, current_process_group
from vae.utils.distributed import SINGLE_PROCESS, ProcessGroup
from vae.utils.errors import UserError

CPU = torch.device("cpu")
OPTIMIZERS = {
    kind: OptimizerConfig(kind, 0.1, [0.9, 0.99], 1e-8, 0.01, "constant")
    for kind in ("adam", "adamw", "muon")
}
LOSS = LossConfig(name="bce", beta=1e-2, kl_reduction="latents")
RUN = [*TINY, "data.flip=true", "trainer.log_every=2", "trainer.grad_clip=0.05"]
# A constant rate, or a longer run would be another; a small one, for tolerances that are small:
# at the usual rates the last digits of a sum come to be the fourth ones within a hundred steps.
RUN += ["optimizer.schedule=constant", "optimizer.lr=1e-4"]
ENDLESS = [*TINY, "trainer.epochs=null", "trainer.max_steps=1000000", "trainer.figures_every=99999"]


class Rank(ProcessGroup):
    """A rank that exchanges nothing."""

    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def of_two(arguments, cwd, count=2, **options):
    """A command by two processes, or by so many, on a thread each."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}", *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def train_by_two(arguments, cwd):
    """`torchrun --nproc-per-node=2 train.py ARGUMENTS`: exit code, stdout, stderr."""
    process = of_two([str(ROOT / "train.py"), *arguments], cwd)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    timeless = [{k: v for k, v in json.loads(r).items() if "perf/" not in k} for r in lines]
    return timeless


def assert_same_course(a, b):
    """Same rows within rounding, and the same weights."""
    assert len(rows(a)) == len(rows(b))
    for one, other in zip(rows(a), rows(b), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    one, other = (load_checkpoint(f / "checkpoints" / "last.pt") for f in (a, b))
    assert one["step"] == other["step"]
    assert one["model"].keys() == other["model"].keys()
    for name, tensor in one["model"].items():
        torch.testing.assert_close(tensor, other["model"][name], rtol=1e-3, atol=1e-4)


# What two processes compute


def layer_and_batch(dtype):
    """A BatchNorm in the middle of things, and 6 odd maps far from 0."""
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(5, eps=1e-3, momentum=0.3)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    layer.running_mean += 1
    shift = torch.tensor([0.0, 1.0, -5.0, 100.0, 0.1]).view(5, 1, 1)
    maps = torch.randn(6, 5, 7, 3) * torch.arange(1.0, 7.0).view(6, 1, 1, 1) + shift
    upstream = torch.randn(6, 5, 7, 3)
    return layer, maps.to(dtype, memory_format=torch.channels_last), upstream.to(dtype)


def normalise(layer, maps, upstream):
    """Run two training passes and one in evaluation; return all outputs."""
    maps = maps.clone().requires_grad_()
    layer(maps)
    y = layer(maps)
    y.backward(upstream)
    layer.eval()
    return {
        "y": y.detach(), "dx": maps.grad, "dw": layer.weight.grad, "db": layer.bias.grad,
        "evaluated": layer(maps).detach(), "state": layer.state_dict(),
    }  # fmt: skip


def a_model():
    torch.manual_seed(0)
    return build_model(ConvConfig(name="conv", latent_dim=4, channels=[4, 8]), 16)


def validation_batches():
    """Batches of 5, 4 and 1: the last has fewer images than there are processes."""
    return torch.rand(10, 3, 16, 16, generator=torch.Generator().manual_seed(1)).split([5, 4, 1])


LOSSES = {  # those that are no mean over images
    "gaussian": GaussianConfig("gaussian", 1.0, "pixels"),
    **{
        regularizer.name: BernoulliConfig("bce", 0.5, "latents", regularizer=regularizer)
        for regularizer in (
            FreeBitsConfig("free_bits", nats=0.02),
            CapacityConfig("capacity", nats=3.0, epochs=0.0),
            TotalCorrelationConfig("tc", weight=6.0, estimator="stratified"),
            MMDConfig("mmd", alpha=0.5, weight=10.0),
        )
    },
}


def averages(tensors, world):
    """Each averaged over the processes, in all of them."""
    everywhere = [[tensor.clone() for tensor in tensors] for _ in range(world.size)]
    for owner, copies in enumerate(everywhere):
        world.reduce(copies, [owner] * len(copies))
    return everywhere[world.rank]


def gradients(loss, world):
    """Of a batch's loss, averaged over the processes, and the terms."""
    model = a_model().eval()
    generator = torch.Generator().manual_seed(2)
    images, noise = torch.rand(6, 3, 16, 16, generator=generator), torch.randn(6, 4)
    part = world.local_slice(6)
    logits, posterior = model(images[part], noise[part])
    latents = posterior.rsample(noise[part])
    terms = loss_terms(
        loss, logits, images[part], posterior, latents, training_images=50, world=world
    )
    terms.loss.backward()
    grads = averages([parameter.grad for parameter in model.parameters()], world)
    return grads, world.mean(torch.stack(terms).detach())


SHAPES = ((4, 9), (6,), (5, 3, 2, 2), (7, 4), (3, 3))


def steps_of(kind, world):
    """Three steps with gradients that have a given average: weights, moments, their work."""
    torch.manual_seed(0)
    model = nn.ParameterList([torch.randn(shape) for shape in SHAPES])
    model[2].data = model[2].data.contiguous(memory_format=torch.channels_last)
    world.synchronize_batch_norm(model)
    optimizer = build_optimizer(OPTIMIZERS[kind], model.parameters())
    sharding = Sharding(optimizer, world)
    kept = []
    with mock.patch("vae.training.muon.orthogonalize", side_effect=orthogonalize) as worked:
        for _ in range(3):
            for weight in model[:4]:  # nothing is known of how the last one should change
                weight.grad = torch.randn_like(weight) * (1 + world.rank - (world.size - 1) / 2)
            kept.append(sum(grad.numel() for grad in sharding.average_gradients()))
            optimizer.step()
            sharding.broadcast_updates()
    alone = len(optimizer.state)
    matrices = sum(len(call.args[0]) for call in worked.mock_calls)
    sharding.gather_state()
    moments = [optimizer.state[weight]["exp_avg"] for weight in model[:4]]
    weights = [weight.detach().clone() for weight in model]
    return {
        "weights": [*weights, *moments], "worked": matrices, "kept": kept,
        "moments before": alone, "moments": len(optimizer.state),
    }  # fmt: skip


def exchange_among_three(out):
    """Exchange tensors among three processes; the last one leaves early."""
    world = current_process_group()
    kernel = torch.arange(54.0).view(2, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    mine = [kernel * (world.rank + 1), torch.tensor(10.0**world.rank), torch.zeros(0)]
    world.reduce(mine, [2, 0, 2])
    large = torch.full((300, 300), float(world.rank))  # larger than all before
    model = nn.ParameterList([torch.zeros(5), torch.zeros(5, 3), torch.zeros(1)])
    world.synchronize_batch_norm(model)
    for owner, parameter in zip((2, 0, 2), model, strict=True):
        if owner == world.rank:
            parameter.data.fill_(owner + 1)
    world.broadcast_parameters(list(model), [2, 0, 2])
    results = {"average": mine, "sum": world.sum(large), "spread": list(model)}
    results["collected"] = world.all_gather_object("abc"[world.rank])
    if world.rank < 2:
        with pytest.raises(ConnectionError):
            world.max(0)
    torch.save(results, out / f"{world.rank}.pt")
    world.close()


def work_of_a_rank(out, kind):
    if kind == "three":
        return exchange_among_three(Path(out))
    if kind == "TorchrunGroup":
        os.environ["LOCAL_WORLD_SIZE"] = "1"  # as if the other one were on another machine
    world = current_process_group()
    assert type(world).__name__ == kind
    results = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        layer, maps, upstream = layer_and_batch(dtype)
        parent = nn.Sequential(layer)
        world.synchronize_batch_norm(parent)
        part = world.local_slice(6)
        results[name] = normalise(parent[0], maps[part], upstream[part])
        own = results[name]
        own["dw"], own["db"] = averages([own["dw"], own["db"]], world)
        results[name]["kind"] = type(parent[0]).__name__
    results["evaluation"] = evaluate_split(a_model(), validation_batches(), LOSS, world=world)
    torch.manual_seed(3)
    results["losses"] = {name: gradients(loss, world) for name, loss in LOSSES.items()}
    results["evaluations"] = {
        name: evaluate_split(a_model(), validation_batches(), loss, world=world).metrics["loss"]
        for name, loss in LOSSES.items()
    }
    results["max"] = [world.max(2 * world.rank), world.max(1 - world.rank), world.max(0)]
    results["mean"] = world.mean(torch.tensor([1.0, 3.0 + 4 * world.rank]))
    results["message"] = world.broadcast({"from": world.rank})
    results["collected"] = world.all_gather_object({world.rank: torch.full((2,), world.rank)})
    results["steps"] = {kind: steps_of(kind, world) for kind in OPTIMIZERS}
    results["rank"] = world.rank
    torch.save(results, Path(out, f"{world.rank}.pt"))
    world.close()


@pytest.fixture(scope="module", params=["SharedMemoryGroup", "TorchrunGroup"])
def shares(request, tmp_path_factory):
    """The results of two processes that exchange by shared memory or by gloo."""
    if request.param == "SharedMemoryGroup" and sys.platform != "linux":
        pytest.skip("memory is shared on Linux")
    folder = tmp_path_factory.mktemp("shares")
    process = of_two([__file__, str(folder), request.param], folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize(
    ("name", "dtype", "close"),
    [
        ("fp32", torch.float32, {"rtol": 1e-4, "atol": 5e-5}),
        ("bf16", torch.bfloat16, {"rtol": 4e-2, "atol": 4e-2}),  # torch sums dy in bfloat16
    ],
)
def test_batch_norm_uses_the_global_batch(name, dtype, close, shares):
    expected = normalise(*layer_and_batch(dtype))
    found = [share[name] for share in shares]
    assert {f["kind"] for f in found} == {"GlobalBatchNorm2d"}
    for key in ("y", "dx", "evaluated"):
        together = torch.cat([f[key] for f in found])
        assert together.dtype == dtype
        torch.testing.assert_close(together, expected[key], **close)
    for one in found:
        for key in ("dw", "db"):  # the gradient of a mean over the processes, a sum here
            torch.testing.assert_close(one[key] * 2, expected[key], **close)
        assert one["state"].keys() == expected["state"].keys()
        torch.testing.assert_close(one["state"], expected["state"], rtol=1e-4, atol=1e-5)


def test_validation_metrics_equal_one_process(shares):
    expected = evaluate_split(a_model(), validation_batches(), LOSS)
    for share in shares:
        evaluation = share["evaluation"]
        assert evaluation.metrics == pytest.approx(expected.metrics, rel=1e-5)
        for name in ("kl_per_latent", "mean_of_means", "std_of_means"):
            torch.testing.assert_close(getattr(evaluation, name), getattr(expected, name))
    assert shares[0]["evaluation"].metrics == shares[1]["evaluation"].metrics  # they decide alike


@pytest.mark.parametrize("name", LOSSES)
def test_losses_use_the_global_batch(name, shares):
    """Each process computes with its share; averaged, the gradients are those of all of it."""
    torch.manual_seed(3)
    expected = {name: gradients(loss, SINGLE_PROCESS) for name, loss in LOSSES.items()}[name]
    for share in shares:
        grads, terms = share["losses"][name]
        torch.testing.assert_close(terms, expected[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(grads, expected[0], rtol=1e-3, atol=1e-6)
    assert any(grad.abs().max() > 1e-4 for grad in expected[0])


@pytest.mark.parametrize("name", LOSSES)
def test_validation_losses_equal_one_process(name, shares):
    expected = evaluate_split(a_model(), validation_batches(), LOSSES[name]).metrics["loss"]
    for share in shares:
        assert share["evaluations"][name] == pytest.approx(expected, rel=1e-5)


def test_collectives_exchange_the_expected_values(shares):
    for rank, share in enumerate(shares):
        assert share["rank"] == rank
        assert share["max"] == [2, 1, 0]
        assert share["mean"].tolist() == [1, 5]
        assert share["message"] == {"from": 0}
        assert [(k, v.tolist()) for said in share["collected"] for k, v in said.items()] == [
            (0, [0, 0]), (1, [1, 1]),
        ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux")
def test_three_processes_share_memory(tmp_path):
    process = of_two([__file__, str(tmp_path), "three"], tmp_path, count=3)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    kernel = torch.arange(54.0).view(2, 3, 3, 3)
    for rank in range(3):
        found = torch.load(tmp_path / f"{rank}.pt")
        if rank == 2:
            torch.testing.assert_close(found["average"][0], kernel * 2)
        if rank == 0:
            torch.testing.assert_close(found["average"][1], torch.tensor(37.0))
        assert torch.equal(found["sum"], torch.full((300, 300), 3.0))
        assert [tensor.unique().tolist() for tensor in found["spread"]] == [[3], [1], [3]]
        assert found["collected"] == ["a", "b", "c"]


def test_work_is_balanced():
    assert balance([5, 1, 4, 3, 2], 2) == [0, 0, 1, 1, 0]  # 8 and 7
    assert balance([1, 1], 3) == [0, 1]
    assert balance([2, 3], 1) == [0, 0]


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_updates_are_sharded(kind, shares):
    alone = steps_of(kind, SINGLE_PROCESS)
    for share in shares:
        found = share["steps"][kind]
        # Muon makes much of the last digits of small singular values.
        torch.testing.assert_close(found["weights"], alone["weights"], rtol=1e-3, atol=1e-4)
        assert found["moments"] == alone["moments"] == 4
        for ours, wanted in zip(found["weights"], alone["weights"], strict=True):
            assert ours.stride() == wanted.stride()
    one, two = (share["steps"][kind] for share in shares)
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert torch.equal(a, b)
    # Each has the gradients, the moments and the matrices of its own parameters.
    assert [a + b for a, b in zip(one["kept"], two["kept"], strict=True)] == alone["kept"]
    assert min(one["moments before"], two["moments before"]) > 0
    assert one["moments before"] + two["moments before"] == 4
    assert one["worked"] + two["worked"] == alone["worked"] == (9 if kind == "muon" else 0)
    assert min(one["worked"], two["worked"]) == (3 if kind == "muon" else 0)


def test_each_rank_reads_its_slice_of_a_batch():
    images = np.random.default_rng(0).integers(0, 256, (26, 8, 8, 3), dtype=np.uint8)

    def served(world):
        return list(TrainingBatches(images, 6, 3, True, CPU, world).epoch(1, start=1))

    shares = [served(Rank(rank, 3)) for rank in range(3)]
    assert [len(s) for s in shares] == [3, 3, 3]
    for batch, *parts in zip(served(SINGLE_PROCESS), *shares, strict=True):
        assert torch.equal(torch.cat(parts), batch)


def test_slices_cover_everything_once():
    for count in range(8):
        covered = [n for rank in range(3) for n in range(count)[Rank(rank, 3).local_slice(count)]]
        assert covered == list(range(count))


def test_indivisible_batches_are_refused():
    Rank(0, 4).check_batch_size(16)
    with pytest.raises(UserError, match=r"data\.batch_size: got 16.* multiple of .*processes.* 3"):
        Rank(0, 3).check_batch_size(16)


# Whole runs


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """A run by two processes with W&B offline, alone in its folder: (the folder, stdout)."""
    cwd = tmp_path_factory.mktemp("by_two")
    code, out, err = train_by_two([*RUN, "wandb.mode=offline"], cwd)
    assert code == 0, err
    return cwd, out


def the_run(cwd):
    (folder,) = (cwd / "outputs").glob("*/*")
    return folder


@pytest.mark.slow
def test_torchrun_makes_one_run_folder(by_two):
    cwd, out = by_two
    folder = the_run(cwd)
    assert {p.name for p in cwd.iterdir()} == {"data", "outputs"}
    assert {p.name for p in folder.iterdir()} == {
        ".hydra", ".lock", "train.log", "metrics.jsonl", "summary.json", "checkpoints", "figures",
        "wandb",
    }  # fmt: skip
    assert len(list((folder / "wandb").glob("offline-run-*"))) == 1
    assert len([p for p in (cwd / "data" / "cache").iterdir() if p.is_dir()]) == 1
    for words in ("images: ", "packed 80 images", "2 processes", "epoch 1:", "epoch 2:"):
        assert out.count(words) == 1, words
        assert (folder / "train.log").read_text().count(words) == 1, words
    assert [row["step"] for row in rows(folder)] == [2, 4, 4, 6, 8, 8]
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_two_processes_follow_one_process(by_two, tmp_path, monkeypatch, capsys):
    arguments = [*RUN, "hydra.run.dir=one"]
    assert call_train(arguments, tmp_path, monkeypatch, capsys)[0] == 0
    assert_same_course(the_run(by_two[0]), tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("setting", ["trainer.ema=0.5", "trainer.compile=true"])
def test_two_processes_follow_one_process_with(setting, tmp_path, monkeypatch, capsys):
    """An average of the weights, of a model that exchanges; and exchanges amid compiled code."""
    arguments = [*RUN, setting]
    code, _, err = train_by_two([*arguments, "hydra.run.dir=two"], tmp_path)
    assert code == 0, err
    assert call_train([*arguments, "hydra.run.dir=one"], tmp_path, monkeypatch, capsys)[0] == 0
    assert_same_course(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_hundred_steps_end_with_the_metrics_of_one_process(tmp_path, monkeypatch, capsys):
    """At their usual rates. The last digits of the sums come to be seen: 3e-5 of bpd, 1e-3 of rate.

    What is wrong would be seen more: with each process's own BatchNorm, the rate differs by 3 %.
    """
    arguments = [
        "experiment=debug", "trainer.epochs=null", "trainer.max_steps=100",
        "trainer.figures_every=100", "trainer.precision=fp32", "trainer.num_threads=1",
        "data.num_workers=1", "wandb.mode=disabled",
    ]  # fmt: skip
    assert train_by_two([*arguments, "hydra.run.dir=two"], tmp_path)[0] == 0
    assert call_train([*arguments, "hydra.run.dir=one"], tmp_path, monkeypatch, capsys)[0] == 0
    one, two = (rows(tmp_path / name)[-1] for name in ("one", "two"))
    assert one["step"] == two["step"] == 100
    figures = {key: value for key, value in one.items() if key.startswith("val/")}
    assert two["val/bpd"] == pytest.approx(one["val/bpd"], rel=2e-4)
    assert {key: two[key] for key in figures} == pytest.approx(figures, rel=5e-3)


@pytest.mark.slow
def test_one_process_resumes_a_run_of_two(by_two, tmp_path, monkeypatch, capsys):
    folder = the_run(by_two[0])
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(folder), str(copy)], check=True)
    more = ["trainer.epochs=4", "wandb.mode=disabled"]
    code, _, err = call_train(["resume=copy", *more], tmp_path, monkeypatch, capsys)
    assert code == 0, err
    whole = [*RUN, "hydra.run.dir=whole", *more]
    assert call_train(whole, tmp_path, monkeypatch, capsys)[0] == 0
    assert_same_course(copy, tmp_path / "whole")


@pytest.mark.slow
def test_user_errors_are_printed_once(tmp_path):
    code, out, err = train_by_two([*TINY, "data.batch_size=15"], tmp_path)
    assert code != 0
    said = [line for line in (out + err).splitlines() if "batch_size: got" in line]
    assert len(said) == 1
    assert said[0].startswith("error: data.batch_size: got 15, but it takes a multiple of the num")
    assert not (tmp_path / "outputs").exists()
    assert 'train.py", line' not in err  # no traceback but torchrun's own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["model.latent_dmi=3"], "Could not override 'model.latent_dmi'"),
        (["-m", "seed=1,2"], "error: -m: torchrun is for one run"),
        (["optimizer.lr=1e30"], "error: training stopped at step"),
    ],
)
def test_other_errors_are_printed_once(arguments, words, tmp_path):
    code, out, err = train_by_two([*TINY, *arguments], tmp_path)
    assert code != 0
    assert (out + err).count(words) == 1
    assert "rank1" not in err
    assert not (tmp_path / "multirun").exists()


@pytest.mark.slow
def test_two_processes_resume_a_run_of_one(tmp_path, monkeypatch, capsys):
    arguments = [*RUN, "hydra.run.dir=parts", "trainer.max_steps=3"]
    assert call_train(arguments, tmp_path, monkeypatch, capsys)[0] == 0
    code, _, err = train_by_two(["resume=parts", "trainer.max_steps=8"], tmp_path)
    assert code == 0, err
    whole = [*RUN, "hydra.run.dir=whole", "trainer.max_steps=8"]
    assert call_train(whole, tmp_path, monkeypatch, capsys)[0] == 0
    a, b = tmp_path / "parts", tmp_path / "whole"
    assert rows(a)[-1] == pytest.approx(rows(b)[-1], rel=1e-4)
    assert load_checkpoint(a / "checkpoints" / "last.pt")["step"] == 8
    assert {p.name for p in tmp_path.iterdir()} - {"home"} == {"data", "parts", "whole"}


@pytest.mark.slow
def test_interrupted_validations_are_repeated_by_both(tmp_path, monkeypatch, capsys):
    def interrupting(*args, **kwargs):
        signal.raise_signal(signal.SIGTERM)
        return loss_terms(*args, **kwargs)

    arguments = [*RUN, "hydra.run.dir=run", "trainer.epochs=2"]
    with mock.patch("vae.training.metrics.loss_terms", interrupting):
        assert call_train(arguments, tmp_path, monkeypatch, capsys)[0] == 128 + signal.SIGTERM
    assert not load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["measured"]
    code, _, err = train_by_two(["resume=run"], tmp_path)
    assert code == 0, err
    assert [row["step"] for row in rows(tmp_path / "run") if "val/bpd" in row] == [4, 8]


def start_endless(cwd):
    """A run without end, when it has measured twice: torchrun's process, its processes by rank."""
    process = of_two([str(ROOT / "train.py"), *ENDLESS, "hydra.run.dir=run"], cwd)
    metrics = cwd / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    while not metrics.exists() or metrics.read_text().count("val/bpd") < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        for rank in (0, 1):
            if f"RANK={rank}".encode() in variables:
                ranks[rank] = child
    return process, ranks


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("number", "target"),
    [
        (signal.SIGTERM, "torchrun"),
        (signal.SIGTERM, 0),
        (signal.SIGINT, 1),
    ],
)
def test_an_interrupt_to_any_rank_saves(number, target, tmp_path):
    process, ranks = start_endless(tmp_path)
    os.kill(ranks.get(target, process.pid), number)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert out.count("resume with  python train.py resume=") == 1
    assert "[rank" not in err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["step"] == summary["step"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run(rank, tmp_path):
    process, ranks = start_endless(tmp_path)
    os.kill(ranks[rank], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any(Path(f"/proc/{child}").exists() for child in ranks.values())


if __name__ == "__main__":
    work_of_a_rank(*sys.argv[1:])
