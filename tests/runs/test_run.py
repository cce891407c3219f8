"""Whole runs: the folder, the metrics, resuming, sweeping by hand."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.support.run_files import identical, rows, timeless_rows, weights
from tests.support.sweep_processes import wait_until
from tests.support.train_command import ROOT, TINY, call_train, run_train
from vae.runs.checkpoint import load_checkpoint, load_resume_state, save_checkpoint
from vae.runs.compose import run_config
from vae.runs.run_dir import read_summary
from vae.utils.errors import UserError
from vae.utils.registry import run_metrics


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One tiny run of two epochs, four steps each, as a process."""
    cwd = tmp_path_factory.mktemp("run")
    done = run_train([*TINY, "hydra.run.dir=run", "trainer.log_every=2"], cwd)
    assert done.returncode == 0, done.stderr
    return cwd / "run"


def test_the_run_folder_has_the_documented_files(finished):
    present = {str(p.relative_to(finished)) for p in finished.rglob("*") if p.is_file()}
    figures = ("reconstructions", "samples", "interpolation", "traversal")
    assert present == {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", ".hydra/accepted.yaml",
        "train.log", "metrics.jsonl", "summary.json", ".lock",
        "checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/best.pt",
        *(f"figures/{name}.png" for name in figures),
    }  # fmt: skip
    for name in figures:
        assert Image.open(finished / "figures" / f"{name}.png").width > 100


def test_rows_and_summary_agree(finished):
    log = (finished / "train.log").read_text()
    described = (
        r": \d+ parameters, \d+M multiply-adds/image, beta_elbo 0\.0192, 8 steps in fp32 on cpu"
    )
    assert re.search(described + r" \(threads: 1\)", log)
    train = [row for row in rows(finished) if "train/loss" in row]
    val = [row for row in rows(finished) if "val/bpd" in row]
    assert [row["step"] for row in train] == [2, 4, 6, 8]
    assert [row["step"] for row in val] == [4, 8]
    assert [row["epoch"] for row in val] == [1, 2]
    assert set(val[0]) >= run_metrics().keys()
    summary = read_summary(finished)
    assert summary["status"] == "finished"
    assert summary["final"] == {key: val[-1][key] for key in run_metrics()}
    assert summary["objective"] == val[-1]["val/bpd"]
    assert summary["best"]["val/bpd"] == min(row["val/bpd"] for row in val)
    assert summary["beta_elbo"] == pytest.approx(1e-4 * 768 / 4)


def test_the_same_command_gives_the_same_weights(finished, monkeypatch, capsys):
    cwd = finished.parent
    arguments = [*TINY, "hydra.run.dir=again", "trainer.log_every=3"]
    assert call_train(arguments, cwd, monkeypatch, capsys)[0] == 0
    assert identical(weights(finished), weights(cwd / "again"))
    arguments = [*TINY, "hydra.run.dir=other", "seed=1"]
    assert call_train(arguments, cwd, monkeypatch, capsys)[0] == 0
    assert not identical(weights(finished), weights(cwd / "other"))


def test_extending_a_run_equals_a_longer_run(finished, monkeypatch, capsys):
    cwd = finished.parent
    long = "trainer.epochs=4"
    tiny = [*TINY, "optimizer.schedule=constant"]  # cosine ends with the run: longer, another
    assert call_train([*tiny, "hydra.run.dir=whole", long], cwd, monkeypatch, capsys)[0] == 0
    assert call_train([*tiny, "hydra.run.dir=parts"], cwd, monkeypatch, capsys)[0] == 0
    arguments = ["resume=parts", long]
    assert call_train(arguments, cwd, monkeypatch, capsys)[0] == 0
    assert identical(weights(cwd / "whole"), weights(cwd / "parts"))

    assert timeless_rows(cwd / "whole") == timeless_rows(cwd / "parts")
    overrides = (cwd / "parts" / ".hydra" / "overrides.yaml").read_text()
    assert "model.latent_dim=4" in overrides


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_end(tmp_path, monkeypatch, capsys):
    """kill -9 in the third epoch or later, then resume: the weights of one that was not killed."""
    longer = [*TINY, "trainer.epochs=400", "trainer.max_steps=400", "trainer.figures_every=1000"]
    assert call_train([*longer, "hydra.run.dir=whole"], tmp_path, monkeypatch, capsys)[0] == 0
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *longer, "hydra.run.dir=cut"],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    metrics = tmp_path / "cut" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("val/bpd") >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert load_checkpoint(tmp_path / "cut/checkpoints/last.pt")["step"] < 400
    assert call_train(["resume=cut"], tmp_path, monkeypatch, capsys)[0] == 0
    assert identical(weights(tmp_path / "whole"), weights(tmp_path / "cut"))
    steps = [row["step"] for row in rows(tmp_path / "cut") if "val/bpd" in row]
    assert steps == list(range(4, 401, 4))
    assert read_summary(tmp_path / "cut")["status"] == "finished"


def test_resume_auto_starts_and_resumes(tmp_path, monkeypatch, capsys):
    command = [*TINY, "hydra.run.dir=run", "resume=auto"]
    assert call_train(command, tmp_path, monkeypatch, capsys)[0] == 0
    assert weights(tmp_path / "run")
    code, out, _ = call_train([*command, "trainer.epochs=3"], tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "resuming at step 8" in out
    assert [row["step"] for row in rows(tmp_path / "run") if "val/bpd" in row] == [4, 8, 12]


def test_an_untrusted_folder_runs_no_code(finished, tmp_path, monkeypatch, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    proof = tmp_path / "proof"
    callback = f"hydra.callbacks.prepare={{_target_:os.mkdir,path:{proof}}}"
    (run / ".hydra" / "accepted.yaml").write_text(json.dumps([*TINY, callback]))
    code, _, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
    assert code == 1
    assert "accepted.yaml" in err
    assert "Traceback" not in err
    assert not proof.exists()


def without(values, *path):
    """A copy of nested dicts with one entry taken out."""
    key, *rest = path
    kept = {k: v for k, v in values.items() if k != key}
    return {**kept, key: without(values[key], *rest)} if rest else kept


def hollow(weight):
    """A tensor of the same shape and type, with data for one of its values."""
    return torch.zeros((), dtype=weight.dtype).expand(weight.shape)


def nested(depth):
    """A dict in a dict in a dict ..."""
    found = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def columns(*values):
    """Values of steps by name, float64."""
    return {str(number): column.double() for number, column in enumerate(values)}


def weights_of(state, name, value):
    return {**state, "model": {**state["model"], name: value}}


def moments_of(state, moments):
    return {**state, "optimizer": {**state["optimizer"], "state": moments}}


def of_settings(state, **changed):
    return {**state, "config": {**state["config"], **changed}}


STRANGE = {
    "nothing": (lambda state: {"a": 1}, "config: not settings"),
    "no seed": (lambda state: without(state, "config", "seed"), "seed: needs a value"),
    "no name": (lambda state: without(state, "config", "wandb", "name"), r"wandb\.name: needs"),
    "tensor": (lambda state: of_settings(state, loss=torch.ones(2)), "loss: .*not a supported"),
    "text": (lambda state: {**state, "config": "[" * 10**5}, "config: not settings"),
    "environment": (lambda state: of_settings(state, objective="${oc.env:HOME}"), "without \\$"),
    "deep": (lambda state: of_settings(state, model=nested(250)), "config: not settings"),
    "step": (lambda state: {**state, "step": -1}, "'step'"),
    "no best": (lambda state: without(state, "best"), "'best'"),
    "no best bpd": (lambda state: without(state, "best", "val/bpd"), "'best'"),
    "best": (lambda state: {**state, "best": {**state["best"], "val/mse": math.nan}}, "'best'"),
    "skipped": (lambda state: {**state, "skipped": {**state["skipped"], "more": 1}}, "'skipped'"),
    "none skipped": (lambda s: {**s, "skipped": {"total": None, "in_a_row": 0}}, "'skipped'"),
    "seconds": (lambda state: {**state, "seconds": math.nan}, "'seconds'"),
    "final": (lambda state: {**state, "final": {"val/bpd": 10**400}}, "'final'"),
    "pending": (lambda s: {**s, "pending": columns(torch.zeros(2), torch.zeros(3))}, "'pending'"),
    "float32": (lambda s: {**s, "pending": {"loss": torch.zeros(2)}}, "'pending'"),
    "meta": (lambda s: {**s, "pending": columns(torch.empty(2, device="meta"))}, "'pending'"),
    "sparse": (lambda s: {**s, "pending": columns(torch.zeros(2).to_sparse())}, "'pending'"),
    "ema": (lambda state: {**state, "ema": {"updates": math.inf}}, "'ema'"),
    "shape": (lambda s: weights_of(s, "encoder.mean.bias", torch.zeros(9)), "'model'"),
    "type": (lambda s: weights_of(s, "encoder.mean.bias", torch.zeros(4).double()), "'model'"),
    "no data": (lambda s: {**s, "model": {k: hollow(w) for k, w in s["model"].items()}}, "'model'"),
    "moments": (lambda s: moments_of(s, {0: {"exp_avg": torch.zeros(9)}}), "'optimizer'"),
    "few": (lambda s: moments_of(s, {i: without(m, "exp_avg") for i, m in
                                     s["optimizer"]["state"].items()}), "'optimizer'"),
    "no moments": (lambda state: {**state, "optimizer": 3}, "'optimizer'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STRANGE)
def test_a_forged_checkpoint_is_no_traceback(kind, finished, tmp_path):
    """Its file and what is wrong with it are named."""
    forge, named = STRANGE[kind]
    run = shutil.copytree(finished, tmp_path / "run")
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    config = run_config(state["config"])
    save_checkpoint(run / "checkpoints" / "previous.pt", forge(state))
    save_checkpoint(run / "checkpoints" / "last.pt", forge(state))
    for name in ("last.pt", "previous.pt"):  # the last one is damaged, the second time
        with pytest.raises(UserError, match=rf"^resume: \S*{name}: .*{named}"):
            load_resume_state(config, run)
        (run / "checkpoints" / "last.pt").unlink(missing_ok=True)


def test_a_changed_precision_is_logged(finished, tmp_path, monkeypatch, capsys):
    """Of `auto`: on this machine and on the one before."""
    run = shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "data").symlink_to(finished.parent / "data")
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    for before, said in (("fp32", False), ("bf16", True), (None, False)):
        save_checkpoint(run / "checkpoints" / "last.pt", {**state, "precision": before})
        code, out, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
        assert code == 0, err
        assert ("computed in bf16 before, and is in fp32 now" in out + err) == said


def test_a_damaged_checkpoint_falls_back_to_the_previous(finished, monkeypatch, capsys):
    cwd, folder = finished.parent, finished / "checkpoints"
    expected, course = weights(finished), timeless_rows(finished)
    damages = (
        (lambda file: file.write_bytes(file.read_bytes()[:-9]), "not a valid checkpoint"),
        (Path.unlink, "there is no such checkpoint"),
    )
    for damage, reason in damages:
        assert load_checkpoint(folder / "previous.pt")["step"] == 4
        damage(folder / "last.pt")
        code, out, err = call_train([f"resume={finished}"], cwd, monkeypatch, capsys)
        assert code == 0, err
        assert f"last.pt: {reason}" in out
        assert f"In its place: {folder / 'previous.pt'}, step 4." in out
        assert identical(weights(finished), expected)
        assert timeless_rows(finished) == course


def test_two_damaged_checkpoints_are_named_and_kept(finished, tmp_path, monkeypatch, capsys):
    shutil.copytree(finished, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "last.pt").write_bytes(b"torn")
    (folder / "previous.pt").write_bytes(b"torn, too")
    code, _, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
    assert code != 0
    assert "previous.pt: not a valid checkpoint" in err
    assert (folder / "last.pt").read_bytes() == b"torn"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.latent_dim=5", "resume: model.latent_dim was 4"),
        ("trainer.max_steps=5", "is at step 8 already, and with .* it would end at step 5"),
        ("optimizer=adam", "its 'optimizer' is missing or invalid"),  # it has other moments
        ("seed=7", "seed was 0"),
        ("data.image_size=32", "data.image_size was 16"),
        ("data.batch_size=8", "data.batch_size was 16"),
        ("model.latent_dim=0", "model.latent_dim: got 0"),
    ],
)
def test_a_refused_command_leaves_the_run_unchanged(override, words, finished, monkeypatch, capsys):
    """Resuming with a mistake is refused; resuming without it still works afterwards."""
    names = ("metrics.jsonl", "summary.json", "checkpoints/last.pt")
    before = [(finished / name).read_bytes() for name in names]
    arguments = [f"resume={finished}", override]
    code, _, err = call_train(arguments, finished.parent, monkeypatch, capsys)
    assert code != 0
    assert re.search(words, err)
    assert "Traceback" not in err
    assert [(finished / name).read_bytes() for name in names] == before
    code, _, err = call_train([f"resume={finished}"], finished.parent, monkeypatch, capsys)
    assert code == 0, err


def test_a_resumed_run_uses_the_new_settings(finished, monkeypatch, capsys):
    cwd = finished.parent
    assert call_train([*TINY, "hydra.run.dir=decay"], cwd, monkeypatch, capsys)[0] == 0
    new = ["resume=decay", "trainer.epochs=3", "optimizer.weight_decay=0.5"]
    assert call_train(new, cwd, monkeypatch, capsys)[0] == 0
    state = load_checkpoint(cwd / "decay" / "checkpoints" / "last.pt")
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    assert state["step"] == 12


def test_the_smallest_data_set_trains(tmp_path, monkeypatch, capsys):
    """Ten images: eight to train on, one to validate; a length in steps, two objectives."""
    tiny = [o for o in TINY if not o.startswith("data.num_images")]
    arguments = [*tiny, "data.num_images=10", "data.batch_size=4", "hydra.run.dir=run"]
    arguments += ["objective=[val/rate,val/mse]", "trainer.epochs=null", "trainer.max_steps=3"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    summary = read_summary(tmp_path / "run")
    assert summary["objective"] == [summary["final"][key] for key in ("val/rate", "val/mse")]
    assert summary["step"] == 3


def test_train_can_be_called_in_a_loop(tmp_path, monkeypatch, capsys):
    """Three betas: three folders, and each run's weights are those of the run alone."""
    arguments = ["-m", *TINY, "loss.beta=1e-5,1e-4,1e-1", "sweep.name=s"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    sweep = tmp_path / "multirun" / "s"
    folders = sorted(p.name for p in sweep.iterdir() if p.is_dir())
    assert folders == ["loss.beta=0.0001", "loss.beta=0.1", "loss.beta=1e-05"]
    alone = [*TINY, "loss.beta=1e-1", "hydra.run.dir=alone"]
    assert run_train(alone, tmp_path).returncode == 0
    assert identical(weights(sweep / "loss.beta=0.1"), weights(tmp_path / "alone"))
    assert not identical(weights(sweep / "loss.beta=1e-05"), weights(tmp_path / "alone"))
    resume = [f"resume={sweep / 'loss.beta=0.1'}", "trainer.epochs=3"]
    code, _, err = call_train(resume, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    for folder in folders:
        log = (sweep / folder / "train.log").read_text()
        assert log.count("epoch 1:") == 1  # no handler of another job writes here


def test_threads_and_random_state_do_not_leak(tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    hook = sys.excepthook
    assert call_train([*TINY, "hydra.run.dir=a"], tmp_path, monkeypatch, capsys)[0] == 0
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads
    monkeypatch.undo()
    assert sys.excepthook is hook


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_saves_and_prints_how_to_resume(number, exit_code, tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *TINY, "trainer.epochs=null",
         "trainer.max_steps=1000000", "trainer.figures_every=100000", "hydra.run.dir=run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("val/bpd") >= 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == exit_code
    assert "Traceback" not in out + err
    assert err.endswith(f"interrupted by {number.name}\n")
    assert "resume=" in out
    summary = read_summary(tmp_path / "run")
    assert summary["status"] == "interrupted"
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["step"] == summary["step"]


def test_a_refused_resume_leaves_a_new_run_unchanged(tmp_path, monkeypatch, capsys):
    """A run that was killed before its first row: a mistake in resuming it costs nothing."""
    assert call_train([*TINY, "hydra.run.dir=run"], tmp_path, monkeypatch, capsys)[0] == 0
    for name in ("metrics.jsonl", "summary.json", "checkpoints/last.pt", "checkpoints/best.pt"):
        (tmp_path / "run" / name).unlink()
    mistake = ["resume=run", "model.latent_dim=0"]
    assert call_train(mistake, tmp_path, monkeypatch, capsys)[0] != 0
    code, _, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
    assert code == 0, err
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")["step"] == 8
