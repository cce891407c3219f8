"""Where to compute, how precisely, and with how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vae.errors import UserError

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


def pick_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the fastest that is there.

    Raises:
        UserError: this machine has no such device.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there.get(name, False):
        found = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise UserError(f"trainer.device: got {name!r}, but this machine has {found}.")
    return torch.device(name)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which the model runs: bfloat16 matrix products, or plain float32.

    "auto" is bf16 on a GPU that computes in it and fp32 elsewhere. Weights, losses
    and sums stay float32 throughout.
    """
    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if native else "fp32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use `count` CPU threads for the time (None: as many as torch uses now)."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
