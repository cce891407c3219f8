"""What is done with a finished run needs no Hydra: a notebook may not have it."""

import subprocess
import sys

from tests.cli import ROOT

NOTEBOOK = """
import sys
sys.modules["hydra"] = None  # to import it, or anything of it, is an ImportError from here on
from vae.saved import load_run
from vae.editing.edit import edit
from vae.evaluation.evaluate import evaluate_run
from vae.generation.interpolate import interpolate
from vae.generation.reconstruct import reconstruct
from vae.generation.sample import sample
from vae.generation.traverse import traverse

run = load_run("run", overrides=["metrics.bound_images=1", "metrics.inception_weights=none"])
assert reconstruct(run, ["3"]).sheet.exists()
assert all(file.exists() for file in sample(run, num=4, prior="fitted"))
assert all(file.exists() for file in interpolate(run, ["1", "2"]))
assert all(file.exists() for file in traverse(run).files)
assert edit(run, ["3"], ["Smiling"]).sheet.exists()
"""


def test_the_functions_work_without_hydra(finished):
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        cwd=finished.parent,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
