"""Whole runs: the folder, the metrics, resuming, sweeping by hand."""

import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tests.support.run_files import DAMAGES, identical, rows, timeless_rows, weights
from tests.support.sweep_processes import wait_until
from tests.support.train_command import ENDLESS, ROOT, TINY, call_train, run_train
from tests.support.wandb_files import read_run
from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.runs.run_dir import read_summary
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
    present -= {"code.patch"}  # where this repository has uncommitted changes
    figures = ("reconstructions", "samples", "latents", "interpolation", "traversal")
    assert present == {
        ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", ".hydra/accepted.yaml",
        "train.log", "metrics.jsonl", "summary.json", "provenance.json", ".lock",
        "checkpoints/last.pt", "checkpoints/previous.pt", "checkpoints/best.pt",
        *(f"figures/{name}.png" for name in figures),
    }  # fmt: skip
    for name in figures:
        assert Image.open(finished / "figures" / f"{name}.png").width > 100


def test_rows_and_summary_agree(finished):
    log = (finished / "train.log").read_text()
    described = r": \d+ parameters, \d+M multiply-adds/image, beta_elbo 0\.0192, 8 steps in fp32"
    assert re.search(described + r" on cpu \(threads: 1\)", log)
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
    assert summary["provenance"] == json.loads((finished / "provenance.json").read_text())


def test_the_same_command_gives_the_same_weights(finished, monkeypatch, capsys):
    """And leaves the process as it was."""
    cwd = finished.parent
    hook, threads = sys.excepthook, torch.get_num_threads()
    random = torch.get_rng_state()
    arguments = [*TINY, "hydra.run.dir=again", "trainer.log_every=3"]
    with monkeypatch.context() as patch:
        assert call_train(arguments, cwd, patch, capsys)[0] == 0
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.get_num_threads() == threads
    assert sys.excepthook is hook
    assert identical(weights(finished), weights(cwd / "again"))
    arguments = [*TINY, "hydra.run.dir=other", "seed=1"]
    assert call_train(arguments, cwd, monkeypatch, capsys)[0] == 0
    assert not identical(weights(finished), weights(cwd / "other"))


def test_extending_a_run_equals_a_longer_run(tmp_path, monkeypatch, capsys):
    """Also where `auto` has come to another precision before, which is logged."""
    long = "trainer.epochs=4"
    tiny = [*TINY, "optimizer.schedule=constant"]  # cosine ends with the run: longer, another
    assert call_train([*tiny, "hydra.run.dir=whole", long], tmp_path, monkeypatch, capsys)[0] == 0
    assert call_train([*tiny, "hydra.run.dir=parts"], tmp_path, monkeypatch, capsys)[0] == 0
    parts, last = tmp_path / "parts", tmp_path / "parts" / "checkpoints" / "last.pt"
    save_checkpoint(last, {**load_checkpoint(last), "precision": "bf16", "seconds": 1000.0})
    code, out, _ = call_train(["resume=parts", long], tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "computed in bf16 before, and in fp32 now" in out
    assert identical(weights(tmp_path / "whole"), weights(parts))
    assert timeless_rows(tmp_path / "whole") == timeless_rows(parts)
    assert read_summary(parts)["seconds"] > 1000  # of both parts
    assert load_checkpoint(last)["seconds"] > 1000
    assert "model.latent_dim=4" in (parts / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_to_the_same_end(number, exit_code, tmp_path, monkeypatch, capsys):
    """Where the signal can be handled, the state is saved, and how to resume is said."""
    command = [*TINY, *ENDLESS, "optimizer.schedule=constant"]
    cut = tmp_path / "cut"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *command, "hydra.run.dir=cut"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = cut / "metrics.jsonl"
    wait_until(lambda: metrics.exists() and metrics.read_text().count("val/bpd") >= 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == exit_code
    step = load_checkpoint(cut / "checkpoints" / "last.pt")["step"]
    if number != signal.SIGKILL:
        assert "Traceback" not in out + err
        assert err.endswith(f"interrupted by {number.name}\n")
        assert f"resume={cut}" in out
        summary = read_summary(cut)
        assert (summary["status"], summary["step"]) == ("interrupted", step)
    end = f"trainer.max_steps={step + 6}"
    assert call_train(["resume=cut", end], tmp_path, monkeypatch, capsys)[0] == 0
    whole = [*command, end, "hydra.run.dir=whole"]
    assert call_train(whole, tmp_path, monkeypatch, capsys)[0] == 0
    assert identical(weights(tmp_path / "whole"), weights(cut))
    assert timeless_rows(tmp_path / "whole") == timeless_rows(cut)
    assert read_summary(cut)["status"] == "finished"


def test_resume_auto_starts_and_resumes(tmp_path, monkeypatch, capsys):
    """With new settings, too."""
    monkeypatch.setenv("JOB", "run")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # of a run killed while it packed
    command = [*TINY, "hydra.run.dir=${oc.env:JOB}", "resume='auto'", "hydra.job.chdir=true"]
    code, out, _ = call_train(command, tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "of loss=bce; val/distortion and val/bpd: that of a Gaussian" in out
    assert (tmp_path / "data").is_dir()  # relative to where it was started
    new = ["trainer.epochs=3", "optimizer.weight_decay=0.5"]
    code, out, _ = call_train([*command, *new], tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "resuming at step 8" in out
    assert "resume: optimizer.weight_decay was 0.0 and is 0.5 now" in out
    assert "computed in" not in out
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt")
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
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


def test_a_damaged_checkpoint_falls_back_to_the_previous(finished, tmp_path, monkeypatch, capsys):
    """Two damaged ones are named, and stay as they are."""
    run = shutil.copytree(finished, tmp_path / "run")
    last, previous = (run / "checkpoints" / name for name in ("last.pt", "previous.pt"))
    for damage, reason in DAMAGES:
        assert load_checkpoint(previous)["step"] == 4
        damage(last)
        code, out, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
        assert code == 0, err
        assert f"last.pt: {reason}" in out
        assert f"In its place: {previous}, step 4." in out
        assert identical(weights(run), weights(finished))
        assert timeless_rows(run) == timeless_rows(finished)
    for file in (last, previous):
        file.write_bytes(b"torn")
    code, _, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
    assert code != 0
    assert "previous.pt: not a valid checkpoint" in err
    assert last.read_bytes() == previous.read_bytes() == b"torn"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*TINY, "hydra.run.dir=run"], "run holds a run already"),
        (["resume=run", "model.latent_dim=5"], "resume: model.latent_dim was 4"),
        (["resume=run", "loss.beta=3"], "resume: loss.beta was .* in .*run, which is at its last"),
        (["resume=run", "trainer.max_steps=5"], "is at step 8 already, and .* would end at step 5"),
        (["resume=run", "optimizer=adam"], "its 'optimizer' is missing or invalid"),  # its moments
        (["resume=run", "seed=7"], "seed was 0"),
        (["resume=run", "data.image_size=32"], "data.image_size was 16"),
        (["resume=run", "data.batch_size=8"], "data.batch_size was 16"),
        (["resume=run", "model.latent_dim=0"], "model.latent_dim: got 0"),
    ],
)
def test_a_refused_command_leaves_the_run_unchanged(
    arguments, words, finished, monkeypatch, capsys
):
    names = ("metrics.jsonl", "summary.json", "checkpoints/last.pt", ".hydra/accepted.yaml")
    before = [(finished / name).read_bytes() for name in names]
    code, _, err = call_train(arguments, finished.parent, monkeypatch, capsys)
    assert code != 0
    assert re.search(words, err)
    assert "Traceback" not in err
    assert [(finished / name).read_bytes() for name in names] == before


def test_a_new_run_resumes_after_a_refused_command(finished, tmp_path, monkeypatch, capsys):
    """A run that was killed before its first row: a mistake in resuming it costs nothing."""
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("metrics.jsonl", "summary.json", "checkpoints/last.pt", "checkpoints/best.pt"):
        (run / name).unlink()
    mistake = ["resume=run", "model.latent_dim=0"]
    assert call_train(mistake, tmp_path, monkeypatch, capsys)[0] != 0
    code, _, err = call_train(["resume=run"], tmp_path, monkeypatch, capsys)
    assert code == 0, err
    assert identical(weights(run), weights(finished))


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


def test_the_runs_of_a_sweep_are_as_they_are_alone(tmp_path, monkeypatch, capsys):
    """Three betas: a folder and a W&B run each, in one group."""
    arguments = ["-m", *TINY, "loss.beta=1e-5,1e-4,1e-1", "sweep.name=s", "wandb.mode=offline"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    sweep = tmp_path / "multirun" / "s"
    betas = {"loss.beta=0.0001": 1e-4, "loss.beta=0.1": 0.1, "loss.beta=1e-05": 1e-5}
    ids = set()
    for name, beta in betas.items():
        run = read_run(sweep / name)
        assert (run.name, run.group, run.exit_code) == (name, "s", 0)
        assert run.config["loss"]["beta"] == beta
        assert run.metric_rows == rows(sweep / name)
        ids.add(run.id)
    assert len(ids) == 3
    alone = [*TINY, "loss.beta=1e-1", "hydra.run.dir=alone"]
    assert run_train(alone, tmp_path).returncode == 0
    assert identical(weights(sweep / "loss.beta=0.1"), weights(tmp_path / "alone"))
    assert not identical(weights(sweep / "loss.beta=1e-05"), weights(tmp_path / "alone"))
    resume = [f"resume={sweep / 'loss.beta=0.1'}", "trainer.epochs=3"]
    code, _, err = call_train(resume, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    for name in betas:
        log = (sweep / name / "train.log").read_text()
        assert log.count("epoch 1:") == 1  # no handler of another job writes here
