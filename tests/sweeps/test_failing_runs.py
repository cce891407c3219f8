"""A failing run is one failed run; the sweep continues."""

import pytest

from tests.support.sweep_processes import run_sweep, statuses, summaries, trials_of
from tests.support.train_command import ROOT
from vae.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def test_a_study_survives_diverging_and_refused_runs(tmp_path):
    """NaN, a value out of range, and good ones: every trial is told, with its reason.

    With this seed, the eight trials draw each of the three learning rates.
    """
    arguments = [
        "hydra/sweeper=study", "hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=4",
        "optimizer.lr=choice(1e-3,1e9,-1)", "loss.beta=interval(0.1,0.2)",
        "hydra.sweeper.n_trials=8", "sweep.name=o", "sweep.max_failures=null",
    ]  # fmt: skip
    code, out = run_sweep(arguments, tmp_path)
    assert code == 0, out
    trials = trials_of(tmp_path / "multirun/o/study.db")
    assert len(trials) == 8
    expected = {1e-3: "COMPLETE None", 1e9: "FAIL = nan", -1.0: "FAIL optimizer.lr: got -1"}
    for trial in trials:
        state, _, reason = expected[float(trial.params["optimizer.lr"])].partition(" ")
        assert trial.state.name == state
        assert reason in str(trial.user_attrs.get("reason"))
    assert len({trial.params["optimizer.lr"] for trial in trials}) == 3


TROUBLED = """
import os, sys
from pathlib import Path

sys.path.insert(0, {root!r})
import torch
import train
from tests.support.disks import fill
from vae.training.trainer import Trainer

update = Trainer.train_step

def trouble(trainer, images):
    if (trainer.batches.seed, trainer.step) == (1, 5):
        {trouble}
    return update(trainer, images)

if not Path("over").exists():
    Trainer.train_step = trouble
if __name__ == "__main__":
    train.main()
"""


def troubled_sweep(cwd, trouble, *overrides):
    """Three runs, the second of which fails at step 5 unless the file `over` exists.

    Returns:
        (exit code, what was printed).
    """
    script = cwd / "troubled.py"
    script.write_text(TROUBLED.format(root=str(ROOT), trouble=trouble))
    return run_sweep([*overrides, "seed=0,1,2", "sweep.name=s"], cwd, script)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("torch.empty(1 << 60)", "out of memory at step 5: data.batch_size=16 images of 16 px"),
        (
            "os.kill(os.getpid(), 9)",
            "killed by SIGKILL, perhaps by the system because memory ran out",
        ),
    ],
)
def test_a_run_out_of_memory_is_one_failed_run(trouble, reason, tmp_path):
    """A real allocation that fails, or the kernel ends the process that trains."""
    code, out = troubled_sweep(tmp_path, trouble)
    folder = tmp_path / "multirun" / "s"
    assert code != 0
    assert statuses(folder) == {"seed=0": "finished", "seed=1": "failed", "seed=2": "finished"}
    said = summaries(folder)["seed=1"]["error"]
    assert said.startswith(reason)
    assert said in out
    assert load_checkpoint(folder / "seed=1/checkpoints/last.pt")["step"] == 4
    (tmp_path / "over").touch()
    code, out = troubled_sweep(tmp_path, trouble)  # it goes on from its checkpoint
    assert (code, out.count("resuming at step 4")) == (0, 1)
    assert set(statuses(folder).values()) == {"finished"}


@pytest.mark.parametrize(
    ("left", "after"), [(480 << 10, {"seed=2": "failed"}), (16 << 10, {})], ids=["some", "none"]
)
def test_a_full_disk_ends_the_run_with_a_message(left, after, small_disk, tmp_path):
    """Failed runs with their reason; where no run could begin any more, the sweep ends."""
    disk = small_disk(8 << 20)
    larger = ["model.channels=[24,48]", "model.latent_dim=16"]  # no checkpoint fits in
    free = f"fill(Path('.')); os.truncate('others', os.path.getsize('others') - {left})"
    code, out = troubled_sweep(disk, free, *larger)
    folder = disk / "multirun" / "s"
    assert code != 0
    assert statuses(folder) == {"seed=0": "finished", "seed=1": "failed", **after}
    assert ("the sweep stops: " in out) == (not after)
    for failed in ("seed=1", *after):
        reason = summaries(folder)[failed]["error"]
        assert ".pt: the disk is full (0." in reason
        assert reason in out
    (disk / "others").unlink()
    (disk / "over").touch()
    code, out = troubled_sweep(disk, free, *larger)
    assert code == 0, out
    assert statuses(folder) == {f"seed={seed}": "finished" for seed in range(3)}


def test_failures_in_a_row_stop_the_sweep(tmp_path):
    arguments = ["loss.beta=0.1,0.2,0.3,0.4", "sweep.name=s", "sweep.max_failures=2"]
    arguments.append("optimizer.lr=1e9")
    code, out = run_sweep(arguments, tmp_path)
    assert code != 0
    assert "its last 2 runs failed (sweep.max_failures=2)" in out
    assert len(summaries(tmp_path / "multirun" / "s")) == 2
    code, out = run_sweep(arguments, tmp_path)  # a new start, new hope
    assert out.count("failed: training stopped at step") == 2
