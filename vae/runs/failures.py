"""Errors of the machine as user errors with a remedy: full disk, no memory, a rank that died."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from vae.models.base import build_shapes
from vae.runs.config import RunConfig
from vae.runs.resume import resume_command
from vae.training.trainer import Trainer
from vae.utils.devices import pick_device, pick_precision
from vae.utils.distributed import is_failed_exchange
from vae.utils.errors import UserError, is_out_of_memory
from vae.utils.files import DISK_FULL_ERRORS, free_bytes

log = logging.getLogger(__name__)


class ResourceError(UserError):
    """This process lacks something; other processes of the run may not."""


class LostRankError(ResourceError):
    """An exchange with the other processes of the run failed: one of them has ended."""


def require_memory(config: RunConfig) -> None:
    """Raise a UserError if a model is larger than this machine's memory, before building it.

    Raises:
        UserError: names the keys that decide its size.
    """
    if not hasattr(os, "sysconf"):  # Windows tells its memory by other means
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    model = build_shapes(config.model, config.data.image_size)
    weights = sum(weight.nbytes for weight in model.parameters())
    if 2 * weights > there:  # they and their gradients
        raise UserError(
            f"model.latent_dim={config.model.latent_dim} with model.channels="
            f"{list(config.model.channels)} is a model that needs more memory than the "
            f"{there / 1e9:.0f} GB of this machine. Take fewer of either."
        )


@contextmanager
def translate_resource_errors(
    config: RunConfig, folder: Path, trainer: Trainer | None = None, batch: int | None = None
) -> Iterator[None]:
    """Translate an error of the machine into a UserError with a remedy.

    That is a full disk, a failed allocation, a lost rank, a model that torch cannot compile.

    Args:
        config, folder: the run's.
        trainer: its trainer, once there is one.
        batch: images at a time, where `data.batch_size` does not decide it.
    """
    try:
        yield
    except Exception as error:
        if is_failed_exchange(error):
            cause = shorten(f"{type(error).__name__}: {error}", 300)
            message = f"another process of this run has ended, or cannot be reached ({cause})"
            message += _where_stopped(folder, trainer, f"Resume:  {resume_command(folder)}")
            log.error("%s", message)  # now: torchrun may end this process before it leaves W&B
            raise LostRankError(message) from error
        lack = _disk_error(error, folder, trainer) or _memory_error(
            error, config, folder, trainer, batch
        )
        if lack is None and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            log.exception("torch.compile failed")  # perhaps a bug: require_compiler was content
            cause = shorten(str(error).partition("\n")[0] or type(error).__name__, 200)
            lack = f"trainer.compile: torch cannot compile this model ({cause}). "
            lack += "Set trainer.compile=false."
        if lack is None:
            raise
        raise ResourceError(lack) from error


def last_checkpoint_hint(folder: Path) -> str:
    """Return a sentence on the checkpoint that the run in `folder` would resume from."""
    last = folder / "checkpoints" / "last.pt"
    there = last.exists()
    return f"The last good checkpoint is {last}." if there else "There is no checkpoint yet."


def _where_stopped(folder: Path, trainer: Trainer | None, remedy: str) -> str:
    """Return the end of a message: where training stopped, if it had begun, and the remedy."""
    if trainer is None:
        return "."
    hint = last_checkpoint_hint(folder)
    return f"; training stopped at step {trainer.step}. {hint} {remedy}"


def _disk_error(error: Exception, folder: Path, trainer: Trainer | None) -> str | None:
    """Return a message for a file that cannot be used; None for other errors."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    named = isinstance(error.filename, str)
    file = Path(error.filename) if named else folder
    if error.errno in DISK_FULL_ERRORS:
        free = free_bytes(folder) / 1e6
        what, remedy = f"{DISK_FULL_ERRORS[error.errno]} ({free:.2f} MB are free)", "Make room"
    elif named and file.is_relative_to(folder) and error.errno == errno.ENOENT:
        what, remedy = "is gone; it was removed or renamed meanwhile", "Put it back"
    elif named and file.is_relative_to(folder):  # a drive that is gone, or somebody else's
        what, remedy = f"cannot be used ({error.strerror})", "Check the disk and its permissions"
    else:
        return None
    if trainer is None:
        return f"{file}: {what}. {remedy}, and start again."
    remedy += f", and resume:  {resume_command(folder)}"
    return f"{file}: {what}{_where_stopped(folder, trainer, remedy)}"


def _memory_error(
    error: Exception, config: RunConfig, folder: Path, trainer: Trainer | None, batch: int | None
) -> str | None:
    """Return a message for a failed allocation, in torch or in Python; None for other errors."""
    if not is_out_of_memory(error):
        return None
    device = trainer.batches.device if trainer else pick_device(config.trainer.device)
    count = batch or f"data.batch_size={config.data.batch_size}"
    tries = ["smaller model.channels"]
    if pick_precision(config.trainer.precision, device) != "bf16":
        tries.append("trainer.precision=bf16")
    if batch is None and config.data.batch_size >= 4:
        tries.insert(0, f"data.batch_size={config.data.batch_size // 2}")
    cause = shorten(f"{type(error).__name__}: {error}", 120)
    when = f"{'validating ' if batch else ''}at step {trainer.step if trainer else 0}"
    return (
        f"out of memory {when}: {count} images of {config.data.image_size} px, "
        f"model.channels={list(config.model.channels)}, on {device} ({cause}). "
        f"Try {' or '.join(tries)}. {last_checkpoint_hint(folder)}"
    )
