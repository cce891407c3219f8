"""Working with a finished run does not import Hydra."""

import subprocess
import sys

from tests.support.train_command import ROOT

NOTEBOOK = """
import sys
sys.modules["hydra"] = None  # to import it, or anything of it, is an ImportError from here on
from vae.evaluation.attributes import learn_directions
from vae.evaluation.evaluate import evaluate_model
from vae.generation.edit import edit
from vae.generation.decode import interpolate, reconstruct, traverse
from vae.generation.sample import sample
from vae.runs.load import load_run

run = load_run("run", overrides=["metrics.bound_images=1", "metrics.inception_weights=none"])
out = run.folder
assert reconstruct(run, ["3"], folder=out).sheet.exists()
assert all(file.exists() for file in sample(run, num=4, prior="fitted", folder=out))
assert all(file.exists() for file in interpolate(run, ["1", "2"], folder=out))
assert all(file.exists() for file in traverse(run, folder=out).files)
assert edit(run, learn_directions(run), ["3"], ["Smiling"], folder=out).sheet.exists()
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
