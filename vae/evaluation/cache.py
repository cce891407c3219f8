"""Arrays computed from a model and its training images, or from these, kept between commands."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from vae.evaluation import TrainedModel
from vae.models import VAE
from vae.utils.errors import UserError
from vae.utils.files import open_regular, stored_records, write_atomically
from vae.utils.text import printable

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArrayCache(Generic[T]):
    """An .npz file that holds a result for one model and one set of images.

    Args:
        name: of the results, in messages: "directions".
        format: changes with the content; a file of another format is made again.
        max_bytes: of the file, and of its arrays. Larger files are not read.
        pack: result -> JSON values and arrays.
        unpack: the same back. Raises any exception on values that `pack` never writes.
    """

    name: str
    format: int
    max_bytes: int
    pack: Callable[[T], tuple[dict[str, Any], dict[str, np.ndarray]]]
    unpack: Callable[[dict[str, Any], dict[str, np.ndarray]], T]

    def get(self, file: Path | None, trained: TrainedModel, make: Callable[[], T]) -> T:
        """Return the result in `file` if it is of this model and its images, else make and keep it.

        Args:
            file: read and written, with a warning if it cannot be; None: only make the result.
            trained: its weights and its data source identify the result. If the images are
                missing, a result for the same weights is valid.
            make: computes the result.
        """
        if file is None:
            return make()
        identity = {"weights": _digest(trained.model), "images": _images_of(trained)}
        return self.keep(file, identity, make)

    def keep(self, file: Path, identity: Mapping[str, str | None], make: Callable[[], T]) -> T:
        """Return the result in `file` if it has this identity, else make and keep it.

        Args:
            file: as for `get`.
            identity: of the result; a value of None fits any.
            make: computes the result.
        """
        kept = self._read(file, identity)
        if kept is not None:
            return kept
        made = make()
        about, arrays = self.pack(made)
        about = {"format": self.format, **identity, **about}

        def save(temporary: Path) -> None:
            with temporary.open("wb") as opened:
                np.savez(opened, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]

        try:
            write_atomically(file, save)
            log.info("%s: %s", self.name, file)
        except OSError as error:  # perhaps another user's run
            log.warning("%s: cannot be kept (%s); the next time finds them anew", self.name, error)
        return made

    def _read(self, file: Path, identity: Mapping[str, str | None]) -> T | None:
        """Return the result in a file; None if absent, damaged or of another identity."""
        try:
            with (
                open_regular(file, self.max_bytes) as opened,
                np.load(opened, allow_pickle=False) as stored,
            ):
                stored_records(stored.zip, self.max_bytes)
                about = json.loads(str(stored["about"]))
                wanted = {"format": self.format, **identity}
                if any(about[key] != value for key, value in wanted.items() if value is not None):
                    return None
                arrays = {name: stored[name] for name in stored.files if name != "about"}
            return self.unpack(about, arrays)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # zipfile and NumPy raise nearly anything on damaged bytes
            log.warning("%s is damaged (%s); making it again", file, printable(f"{error!s:.200}"))
            return None


def require_array(
    name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type = np.float64
) -> None:
    """Raise a ValueError unless an array is of this shape and dtype, and finite."""
    if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, or not finite")


def _digest(model: VAE) -> str:
    """Return a digest of the model's weights."""
    digest = hashlib.sha256()
    for weight in model.state_dict().values():
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _images_of(trained: TrainedModel) -> str | None:
    """Return a digest of the data source's fingerprint; None if the images are missing."""
    try:
        source = trained.data_config.source()
        canonical = json.dumps(source.fingerprint(), sort_keys=True)
    except UserError:
        return None
    return hashlib.sha256(canonical.encode()).hexdigest()
