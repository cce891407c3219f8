"""Fake sweeps: run folders without training, in milliseconds."""

import json
import random
from copy import deepcopy
from dataclasses import asdict
from functools import cache
from itertools import product
from math import exp, log, log10

from omegaconf import OmegaConf

from vae.runs.compose import compose
from vae.runs.overrides import ACCEPTED
from vae.runs.run_dir import write_summary
from vae.sweeps.results import write_record
from vae.training.metrics import bits_per_dim, gaussian_distortion

VALUES = 3 * 64**2  # of an image, at the default size


def measured(beta=1e-4, latent_dim=128, seed=0):
    """Metrics that a run could have: those of the best linear code of a Gaussian source.

    Reverse water-filling (Cover & Thomas 2006, 10.3.3): latents above the water carry bits;
    the less there is of beta, the lower the water.
    """
    noise = random.Random(f"{beta} {latent_dim} {seed}").gauss
    variances = [160 * i**-1.5 for i in range(1, 1000)]
    water = 0.05 * beta * VALUES / latent_dim + 0.0005
    coded = [v for v in variances[:latent_dim] if v > water]
    rate = sum(0.5 * log(v / water) for v in coded) * exp(noise(0, 0.02))
    error = len(coded) * water + sum(variances[len(coded) :])
    mse = (0.002 + error / VALUES) * exp(noise(0, 0.01))
    distortion = gaussian_distortion(1.02 * mse, VALUES)
    metrics = {
        "loss": 0.5 + mse,
        "rate": rate,
        "distortion": distortion,
        "bpd": bits_per_dim(distortion, rate, VALUES),
        "mse": mse,
        "psnr": -10 * log10(mse),
        "ssim": 1 / (1 + 60 * mse),
        "active_units": float(len(coded)),
    }
    return {f"val/{name}": value for name, value in metrics.items()}


def make_run(sweep, values, status="finished", metrics=None, **summary):
    """A run's folder, as it is once the run has ended; the folder.

    Args:
        sweep: the sweep's folder.
        values: what the run was started with, {"loss.beta": 1e-4}.
        status: as in summary.json; None leaves no summary: the run's process is gone.
        metrics: those of its last validation; None takes those of `measured`.
        **summary: more of what summary.json says.
    """
    arguments = [f"{key}={value}" for key, value in values.items()]
    folder = sweep / ",".join(arguments)
    (folder / ".hydra").mkdir(parents=True)
    config = _config(values)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    for name in (".hydra/overrides.yaml", ACCEPTED):
        OmegaConf.save([*arguments, f"sweep.name={sweep.name}"], folder / name)
    if metrics is None:
        loss, model = config["loss"], config["model"]
        metrics = measured(loss["beta"], model["latent_dim"], config["seed"])
    row = json.dumps(
        {"step": summary.get("step", 1200) if status else 1200, "epoch": 4.0, **metrics}
    )
    (folder / "metrics.jsonl").write_text(f'{{"step": 10, "train/loss": 0.7}}\n{row}\n')
    if status:
        ended = {"status": status, "error": None, "step": 1200, "total_steps": 1200}
        write_summary(folder, {**ended, "seconds": 240.5, "final": metrics, **summary})
    return folder


def grid_of(values):
    """The values of each run of a grid: `grid_of({"seed": [0, 1]})`."""
    return [dict(zip(values, one, strict=True)) for one in product(*values.values())]


def make_sweep(folder, runs, objective=("val/bpd",)):
    """A sweep of finished runs, each given by its values; the folder."""
    for values in runs:
        make_run(folder, values)
    record = {
        "name": folder.name,
        "command": "python train.py -m loss.beta=1e-5,1e-4",
        "started": "2026-11-22T18:39:07.253",
        "objective": list(objective),
        "swept": sorted({key for values in runs for key in values}),
    }
    write_record(folder, record)
    return folder


@cache
def _defaults():
    return asdict(compose(["sweep.name=made"]))


def _config(values):
    """The composed configuration; a group's choice sets no more than the group's name."""
    config = deepcopy(_defaults())
    for key, value in values.items():
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node[group]
        if isinstance(node.get(last), dict):
            node[last]["name"] = value
        else:
            node[last] = value
    return config
