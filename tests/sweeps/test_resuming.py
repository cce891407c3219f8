"""A killed sweep resumes under its name."""

import signal

import optuna
import pytest
import torch

from tests.support.sweep_processes import (
    FROM_STUDY,
    LONG,
    STEPS,
    finish,
    is_gone,
    is_training,
    kill,
    process_of,
    rows,
    start,
    summaries,
    wait_until,
)
from tests.support.train_command import TINY, run_train
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def weights(folder):
    return load_checkpoint(folder / "checkpoints" / "last.pt")["model"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_an_interrupted_grid_resumes(sweep, tmp_path):
    """kill -9 in the second of three runs: the first is not run again, the second goes on."""
    arguments = ["loss.beta=0.001,0.01,0.1", "sweep.name=s", *LONG]
    folder = tmp_path / "multirun" / "s"
    process = start(arguments, tmp_path)
    wait_until(lambda: is_training(folder / "loss.beta=0.01"))
    kill(process)
    statuses = {name: summary["status"] for name, summary in summaries(folder).items()}
    assert statuses == {"loss.beta=0.001": "finished", "loss.beta=0.01": "interrupted"}
    first = (folder / "loss.beta=0.001/checkpoints/last.pt").stat().st_mtime_ns
    code, out = sweep(arguments, tmp_path)
    assert code == 0, out
    assert (folder / "loss.beta=0.001/checkpoints/last.pt").stat().st_mtime_ns == first
    assert "loss.beta=0.001: finished already" in out
    assert out.count("resuming at step") == 1
    assert [s["status"] for s in summaries(folder).values()] == ["finished"] * 3
    steps = [row["step"] for row in rows(folder / "loss.beta=0.01") if "val/bpd" in row]
    assert steps == list(range(4, STEPS + 1, 4))  # nothing lost, nothing doubled
    alone = [*TINY, *LONG, "loss.beta=0.01", "hydra.run.dir=alone"]
    assert run_train(alone, tmp_path).returncode == 0
    assert same(weights(folder / "loss.beta=0.01"), weights(tmp_path / "alone"))


def study_of(folder):
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")


def test_an_interrupted_study_resumes(sweep, tmp_path):
    """kill -9 in the second trial: it goes on, no trial stays open, n_trials is the total."""
    arguments = [*FROM_STUDY, "sweep.name=o", "hydra.sweeper.n_trials=4", *LONG]
    arguments.append("hydra.sweeper.sampler.seed=1")
    folder = tmp_path / "multirun" / "o"
    process = start(arguments, tmp_path)
    second = wait_until(lambda: summaries(folder) and next(
        filter(is_training, folder.glob("loss*")), None)
    )  # fmt: skip
    kill(process)
    before = study_of(folder).trials
    assert [t.state.name for t in before] == ["COMPLETE", "RUNNING"]

    code, out = sweep(arguments, tmp_path)
    assert code == 0, out
    trials = study_of(folder).trials
    assert [t.state.name for t in trials] == ["COMPLETE", "FAIL", *["COMPLETE"] * 3]
    assert trials[1].user_attrs["reason"] == "its process died"
    assert trials[2].params == before[1].params  # tried again …
    assert out.count("resuming at step") == 1  # … from where it was
    assert [row["step"] for row in rows(second) if "val/bpd" in row] == list(range(4, STEPS + 1, 4))
    betas = [t.params["loss.beta"] for t in trials if t.state.name == "COMPLETE"]
    assert len(set(betas)) == 4  # the sampler's seed does not make it repeat itself
    assert len(summaries(folder)) == 4

    more = [a.replace("n_trials=4", "n_trials=5") for a in arguments]
    assert sweep(more, tmp_path)[0] == 0
    assert [t.state.name for t in study_of(folder).trials].count("COMPLETE") == 5

    for change, words in (
        ("loss.beta=interval(0.1,0.2)", "the study o searched loss.beta in FloatDistribution"),
        ("objective=val/psnr", "the study o has 1 (minimize)"),
    ):
        code, out = sweep([*more, change], tmp_path)
        assert (code != 0, words in out, "Traceback" in out) == (True, True, False), out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_saves_the_run_and_gives_the_trial_back(number, tmp_path):
    arguments = [*FROM_STUDY, "sweep.name=o", "hydra.sweeper.n_trials=2", *LONG]
    arguments.append("trainer.max_steps=100000")
    folder = tmp_path / "multirun" / "o"
    process = start(arguments, tmp_path)
    wait_until(lambda: any(map(is_training, folder.glob("loss*"))))
    process.send_signal(number)
    code, out = finish(process)
    assert code != 0
    assert "Traceback" not in out
    (summary,) = summaries(folder).values()
    assert summary["status"] == "interrupted"
    (run,) = folder.glob("loss*")
    assert load_checkpoint(run / "checkpoints/last.pt")["step"] == summary["step"]
    assert [t.state.name for t in study_of(folder).trials] == ["WAITING"]


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_killed_sweep_leaves_no_training_process(launcher, tmp_path):
    arguments = [f"hydra/launcher={launcher}", "loss.beta=0.1,0.2,0.3", "sweep.name=s", *LONG]
    arguments.append("trainer.max_steps=100000")
    run = tmp_path / "multirun" / "s" / "loss.beta=0.1"
    process = start(arguments, tmp_path)
    wait_until(lambda: is_training(run))
    trainer = wait_until(lambda: process_of(run))
    assert trainer != process.pid
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: is_gone(trainer), timeout=30)
    process.communicate(timeout=30)  # the workers, too, have let go of its output
    assert not (tmp_path / "multirun" / "s" / "loss.beta=0.3").exists()


def test_another_sweep_under_the_same_name_is_refused_and_a_larger_one_is_not(sweep, tmp_path):
    assert sweep(["loss.beta=0.1,0.2", "sweep.name=s"], tmp_path)[0] == 0
    before = {p: p.read_bytes() for p in (tmp_path / "multirun").rglob("*") if p.is_file()}
    code, out = sweep(["loss.beta=0.1,0.2", "sweep.name=s", "optimizer.lr=1e-2"], tmp_path)
    assert code != 0
    assert "sweep.name: multirun/s is a sweep with optimizer.lr=0.002" in out
    assert "Traceback" not in out
    after = {p: p.read_bytes() for p in (tmp_path / "multirun").rglob("*") if p.is_file()}
    assert after == before
    code, out = sweep(["loss.beta=0.1,0.2,0.3", "sweep.name=s"], tmp_path)
    assert code == 0
    assert out.count("finished already") == 2
    code, out = sweep(["loss.beta=0.1", "sweep.name=s", "trainer.epochs=3"], tmp_path)
    assert code == 0
    assert out.count("resuming at step 8") == 1
    steps = {name: s["step"] for name, s in summaries(tmp_path / "multirun" / "s").items()}
    assert steps == {"loss.beta=0.1": 12, "loss.beta=0.2": 8, "loss.beta=0.3": 8}
    accepted = tmp_path / "multirun/s/loss.beta=0.1/.hydra/accepted.yaml"
    code, out = sweep(["loss.beta=0.1", "sweep.name=s", "trainer.epochs=1"], tmp_path)
    assert (code, "is at step 12 already" in out) == (1, True), out
    assert "trainer.epochs=3" in accepted.read_text()  # what it was last trained with
