"""What a run has left in its folder: rows of metrics, weights, the state to resume from."""

import json
from pathlib import Path

import torch

from vae.runs.checkpoint import load_checkpoint

DAMAGES = [  # of a checkpoint, and what is said of it
    (lambda file: file.write_bytes(file.read_bytes()[:-9]), "not a valid checkpoint"),
    (Path.unlink, "there is no such checkpoint"),
]


def rows(folder):
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless_rows(folder):
    """The rows without what depends on the machine's speed."""
    return [{key: row[key] for key in row if not key.startswith("perf/")} for row in rows(folder)]


def weights(folder):
    """The weights of a run's last checkpoint."""
    return load_checkpoint(folder / "checkpoints" / "last.pt")["model"]


def state_of(folder):
    """A run's last checkpoint without times and names."""
    state = load_checkpoint(folder / "checkpoints" / "last.pt")
    return {key: state[key] for key in state if key not in ("seconds", "run_id", "config")}


def identical(a, b):
    """Compare bit for bit, also in dicts and lists."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b
