"""Fake sweeps: run folders without training, in milliseconds."""

import json
import random
from dataclasses import asdict
from functools import cache
from itertools import product
from math import exp, log10

from omegaconf import OmegaConf

from vae.runs.compose import compose
from vae.runs.resume import ACCEPTED
from vae.runs.run_dir import write_summary
from vae.sweeps.results import RECORD_FILE
from vae.training.metrics import bits_per_dim, gaussian_distortion
from vae.utils.files import write_json

VALUES = 3 * 64**2  # of an image, at the default size


def measured(beta=1e-4, latent_dim=128, seed=0):
    """Metrics that a run could have: the more beta, the less rate, and the more error."""
    noise = random.Random(f"{beta} {latent_dim} {seed}").gauss
    rate = 40 * (latent_dim / (1 + 1000 * beta)) ** 0.5 * exp(noise(0, 0.02))
    mse = (0.002 + 1 / (50 + rate)) * exp(noise(0, 0.01))
    distortion = gaussian_distortion(1.02 * mse, VALUES)
    metrics = {
        "loss": 0.5 + mse,
        "rate": rate,
        "distortion": distortion,
        "bpd": bits_per_dim(distortion, rate, VALUES),
        "mse": mse,
        "psnr": -10 * log10(mse),
        "ssim": 1 / (1 + 60 * mse),
        "active_units": float(latent_dim // (1 + beta)),
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


def searched(count, seed=0, **categories):
    """The values of each run of a search over beta, the latent size and categories of keys."""
    draw = random.Random(seed)
    return [
        {
            "loss.beta": 10 ** draw.uniform(-6, -1),
            "model.latent_dim": round(8 * 64 ** draw.random()),
            **{key: draw.choice(values) for key, values in categories.items()},
        }
        for _ in range(count)
    ]


def make_sweep(folder, runs, objective=("val/bpd",), constraint=None):
    """A sweep of finished runs, each given by its values; the folder."""
    for values in runs:
        make_run(folder, values)
    record = {
        "name": folder.name,
        "command": "python train.py -m loss.beta=1e-5,1e-4",
        "started": "2026-11-22T18:39:07.253",
        "objective": list(objective),
        "search": {"constraint": constraint},
        "swept": sorted({key for values in runs for key in values}),
    }
    write_json(folder / RECORD_FILE, record)
    return folder


@cache
def _defaults():
    return asdict(compose(["sweep.name=made"]))


def _config(values):
    """The composed configuration; a group's choice sets no more than the group's name."""
    config = OmegaConf.create(_defaults())
    for key, value in values.items():
        a_group = OmegaConf.is_dict(OmegaConf.select(config, key))
        OmegaConf.update(config, f"{key}.name" if a_group else key, value)
    return config
