"""Run train.py from tests, in this process (fast) or in a new process."""

import logging
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The smallest run that goes through everything: 8 steps of tiny pictures.
TINY = [
    "experiment=debug",
    "data.num_images=80",
    "data.image_size=16",
    "data.num_workers=1",
    "model.channels=[4,8]",
    "model.latent_dim=4",
    "trainer.num_threads=1",
    "trainer.precision=fp32",  # the same figures on every machine
    "wandb.mode=disabled",
]
# With TINY: a run that is long enough to be interrupted.
ENDLESS = ["trainer.epochs=null", "trainer.max_steps=1000000", "trainer.figures_every=100000"]


def run_train(arguments, cwd, **environment):
    """`python train.py ARGUMENTS` in a folder, as a process: the completed process."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def call_train(arguments, cwd, monkeypatch, capsys):
    """The same in this process: (exit code, stdout, stderr)."""
    import train  # the repo's root is on the path

    monkeypatch.chdir(cwd)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # train.py sets it
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    capsys.readouterr()
    code = 0
    try:
        train.main()
    except SystemExit as stop:
        code = stop.code or 0
        if isinstance(code, str):  # as the interpreter does
            print(code, file=sys.stderr)
            code = 1
    except Exception:
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        root.handlers, root.level = handlers, level
        if loky := sys.modules.get("joblib.externals.loky"):
            loky.get_reusable_executor().shutdown()  # its processes stay in this test's folder
    captured = capsys.readouterr()
    return code, captured.out, captured.err
