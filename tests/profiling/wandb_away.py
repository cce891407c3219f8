"""Measure the cost of W&B for a run, with and without a reachable server.

    python -m tests.profiling.wandb_away [KEY=VALUE ...]

Each round has whole runs in turns, each a process of its own on one thread, with a server on
this machine: W&B disabled; online; a server that is away from the start, hangs or dies after
the first row. Of each: the share of the training that the loop spends on handing rows over,
which is all that W&B can hold it up with, as W&B's own process waits for the network; the
median of `perf/images_per_second`; and the seconds from start to end. The medians of the
rounds, the last two against the run without W&B in the same round.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.support.run_files import rows
from tests.support.wandb_server import WandbServer
from vae.benchmark.timing import median_ratio

MODES = ("disabled", "online", "away", "hangs", "dies")
ROUNDS, STEPS = 3, 60
TIMED = """
import atexit, sys, time
import train
from vae.runs import wandb_run
from vae.runs.run import Run

wandb_run.FINISH_TIMEOUT = 2.0  # at the end; it is not what is measured
spent, log = [0.0], Run._log
atexit.register(lambda: print("spent", spent[0]))

def timed(run, row):
    started = time.perf_counter()
    log(run, row)
    spent[0] += time.perf_counter() - started

Run._log = timed
train.main()
"""


def train(mode: str, overrides: list[str]) -> tuple[float, float, float]:
    """Share of the training spent on rows, images per second, and seconds of the whole."""
    with tempfile.TemporaryDirectory() as folder, WandbServer() as server:
        away = "http://127.0.0.1:9"  # nobody listens there
        environment = {
            "WANDB_BASE_URL": away if mode == "away" else server.url,
            "WANDB_API_KEY": server.key,
        }
        fixed = ["trainer.num_threads=1", "trainer.epochs=null", f"trainer.max_steps={STEPS}"]
        fixed += ["trainer.log_every=5", f"hydra.run.dir={folder}/run"]
        fixed += [f"wandb.mode={'disabled' if mode == 'disabled' else 'auto'}"]
        started = time.monotonic()
        if mode in ("hangs", "dies"):
            threading.Thread(target=fail, args=(server, mode), daemon=True).start()
        command = [sys.executable, "-c", TIMED, *fixed, *overrides]
        env = {**os.environ, **environment, "TQDM_DISABLE": "1"}
        said = subprocess.check_output(command, env=env, text=True)
        found = rows(Path(folder) / "run")
        speeds = [row["perf/images_per_second"] for row in found if "train/loss" in row]
        training = sum(found[0]["images"] / speed for speed in speeds)
        spent = float(said.rpartition("spent ")[2].split()[0])
        return spent / training, statistics.median(speeds[1:]), time.monotonic() - started


def fail(server: WandbServer, how: str) -> None:
    """Fail as soon as the first row has come."""
    while not any(run.history for run in list(server.runs.values())):
        time.sleep(0.05)
    server.fault = how


def main() -> None:
    found = {mode: [] for mode in MODES}
    for number in range(ROUNDS):
        for mode in MODES[number:] + MODES[:number]:
            found[mode].append(train(mode, sys.argv[1:]))
            share, speed, _ = found[mode][-1]
            print(f"{mode:>9}: {share:.2%} on rows, {speed:.1f} images/s", flush=True)
    _, base_speeds, base_seconds = zip(*found["disabled"], strict=True)
    for mode in MODES:
        shares, speeds, seconds = zip(*found[mode], strict=True)
        share, speed = statistics.median(shares), median_ratio(speeds, base_speeds)
        extra = statistics.median(a - b for a, b in zip(seconds, base_seconds, strict=True))
        print(f"{mode:>9}: {share:.2%} on rows, {speed:.2f} times the speed, {extra:+.1f} s in all")


if __name__ == "__main__":
    main()
