"""Sweeps as processes of their own: started, waited for, killed, started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna

from tests.support.train_command import ROOT, TINY

# A run that lasts some seconds, next to those of TINY: something to kill in the middle of.
STEPS = 80
EPOCHS = list(range(4, STEPS + 1, 4))  # the step at the end of each
LONG = ["trainer.epochs=null", f"trainer.max_steps={STEPS}", "trainer.figures_every=1000"]
FROM_STUDY = ["sweep=optuna", "model.latent_dim=4"]


def start(arguments, cwd, script=ROOT / "train.py", **options):
    """`python train.py -m ARGUMENTS` on tiny runs, in the background."""
    return subprocess.Popen(
        [sys.executable, str(script), "-m", *TINY, *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def finish(process, timeout=300):
    """(exit code, what it printed)."""
    out, _ = process.communicate(timeout=timeout)
    assert "Traceback" not in out, out
    return process.returncode, out


def run_sweep(arguments, cwd, script=ROOT / "train.py"):
    """(exit code, what it printed) of a sweep on tiny runs."""
    return finish(start(arguments, cwd, script))


def wait_until(condition, timeout=120):
    """Wait until `condition()` is true and return its value."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)
    return found


def kill(process):
    """SIGKILL, as the system's own; waits until it and its runs are gone."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def summaries(folder):
    """The summary of each run of a sweep, by name."""
    files = sorted(folder.glob("*/summary.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def statuses(folder):
    """The status of each run that has ended, by name."""
    return {name: summary["status"] for name, summary in summaries(folder).items()}


def trials_of(file):
    """The trials of the only study in a database, by Optuna alone."""
    return optuna.load_study(study_name=None, storage=f"sqlite:///{file}").trials


def validated(folder):
    """The steps after which a run was validated; its metrics.jsonl may be being written."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line)["step"] for line in lines if "val/bpd" in line and line[-1] == "}"]


def is_training(folder):
    """Whether the run in `folder` has a checkpoint and is not done."""
    return len(validated(folder)) >= 2 and not (folder / "summary.json").exists()


def is_gone(pid):
    """Whether a process has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"  # ended, and nobody has asked how


def process_of(folder):
    """The id of the process that trains the run in this folder, by the lock that it holds."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            opened = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if str(folder / ".lock") in opened:
            return int(pid)
    return None
