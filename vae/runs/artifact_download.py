"""Runs from W&B: `wandb:ENTITY/PROJECT/NAME:ALIAS` in the place of a run folder.

The artifact may come from somebody else. Of its files, those of a run are downloaded, under
names of ours and up to limits of ours, and its references are refused: they may lead anywhere.
Then it is an untrusted run folder like any other.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vae.runs.artifacts import CHECKPOINTS, MODEL, ORIGIN_FILE, OVERRIDES
from vae.runs.checkpoint import load_checkpoint, read_checkpoint, save_checkpoint
from vae.runs.resume import ACCEPTED
from vae.runs.run_dir import SUMMARY_FILE
from vae.runs.wandb_run import REACH_TIMEOUT, unreachable
from vae.runs.wandb_settings import error_text, resolve_mode, wandb_settings, without_credentials
from vae.utils.errors import UserError, require
from vae.utils.files import MAX_WEIGHTS, MAX_YAML, free_bytes, read_json, write_json
from vae.utils.text import printable, safe_name

if TYPE_CHECKING:
    import wandb

log = logging.getLogger(__name__)

PREFIX = "wandb:"
PLACE = Path("outputs", "wandb")  # of downloaded runs, in the current folder
LIMITS = {**dict.fromkeys(CHECKPOINTS, MAX_WEIGHTS), OVERRIDES: MAX_YAML, SUMMARY_FILE: MAX_YAML}
PIECE = 1 << 20  # bytes


def is_address(run: object) -> bool:
    """Return whether this is the address of a run on W&B, in the place of a run folder."""
    return str(run).startswith(PREFIX)


def download_run(address: str) -> Path:
    """Download the run of a model artifact, unless it is there; return its run folder.

    Args:
        address: `wandb:ENTITY/PROJECT/NAME:ALIAS`.

    Returns:
        `outputs/wandb/NAME-VERSION` in the current folder.

    Raises:
        UserError: there is no login, no such artifact, no server; or it is no model of this
            project, too large, or does not arrive.
    """
    takes = "wandb:ENTITY/PROJECT/NAME:ALIAS, for example wandb:me/minifaceapp/model-1a2b3c4d:best"
    require(MODEL.fullmatch(address.removeprefix(PREFIX)) is not None, "RUN", address, takes)
    artifact, files = _find(address)
    name = artifact.name.partition(":")[0]
    origin = {
        "artifact": f"{artifact.entity}/{artifact.project}/{name}:{artifact.version}",
        "digest": artifact.digest,
    }
    folder = PLACE / safe_name(f"{name}-{artifact.version}")
    if read_json(folder / ORIGIN_FILE) == origin:
        log.info("%s is in %s", address, folder)
        return folder
    if folder.exists():
        raise UserError(f"{address}: {folder} holds something else. Move it to another place.")
    sizes = {name: file.size for name, file in files.items()}
    _require_room(address, sizes)
    log.info("downloading %s (%.1f MB) to %s", address, sum(sizes.values()) / 1e6, folder)
    try:
        with _new_folder(folder) as temporary:
            for name, file in files.items():
                _download(file, temporary / name)
            (temporary / ACCEPTED).parent.mkdir(exist_ok=True)  # the mark of a run folder
            write_json(temporary / ORIGIN_FILE, origin)
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(
            f"{address}: the download failed ({error_text(error)}), and nothing of it is kept. "
            "Start the command again."
        ) from error
    return folder


def copy_to_resume(address: str, given: str | None = None) -> Path:
    """Download a run and copy it to the folder in which it is resumed, as a new run on W&B.

    The downloaded run stays as it is. A folder that has been resumed in before is kept.

    Args:
        address: as `download_run`.
        given: the folder; None: `outputs/wandb/NAME-VERSION-resumed`.

    Raises:
        UserError: as `download_run`; or the folder holds something else.
    """
    source = download_run(address)
    folder = Path(given) if given else source.with_name(f"{source.name}-resumed")
    origin = read_json(source / ORIGIN_FILE)
    if read_json(folder / ORIGIN_FILE) == origin and not (given and folder.samefile(source)):
        return folder
    if folder.exists():
        raise UserError(
            f"{address}: {folder} holds something else. Choose another folder by "
            "hydra.run.dir=FOLDER."
        )
    read_checkpoint(source)  # its errors name the downloaded folder
    with _new_folder(folder) as temporary:
        for name in CHECKPOINTS:
            if (source / name).is_file():
                save_checkpoint(
                    temporary / name, {**load_checkpoint(source / name), "run_id": None}
                )
        for name in (OVERRIDES, ORIGIN_FILE):
            if (source / name).is_file():
                (temporary / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source / name, temporary / name)
    return folder


def _find(address: str) -> tuple[wandb.Artifact, dict[str, Any]]:
    """Return an artifact and those of its files that a run has, by name.

    Raises:
        UserError: as `download_run`.
    """
    if resolve_mode("auto") != "online":
        raise UserError(
            f"{address}: there is no login on W&B, or W&B is switched off. Run `wandb login`, or "
            f"give the folder of a run that is downloaded already: {PLACE}/NAME-VERSION."
        )
    known = wandb_settings()
    url = without_credentials(known.base_url)
    proxied = known.http_proxy or known.https_proxy
    if not proxied and (trouble := unreachable(url)):
        raise UserError(
            f"{address}: W&B at {url} cannot be reached: {trouble}. Try later, or give the folder "
            f"of a run that is downloaded already: {PLACE}/NAME-VERSION."
        )
    import wandb

    try:
        api = wandb.Api({"base_url": url}, timeout=int(REACH_TIMEOUT))
        artifact = api.artifact(address.removeprefix(PREFIX))
        kind = artifact.type
        files = {file.name: file for file in artifact.files(list(LIMITS)) if file.name in LIMITS}
    except Exception as error:  # of any kind: wandb documents none
        raise UserError(
            f"{address}: W&B at {url} does not provide it: {printable(error_text(error))}. "
            "Check entity, project, name and alias on the artifact's page, and your login."
        ) from error
    if kind != "model" or not files.keys() & {*CHECKPOINTS}:
        raise UserError(
            f"{address}: is no run of this project: there are no checkpoints in it. Give a model "
            "that was logged with wandb.log_model=true."
        )
    return artifact, files


def _require_room(address: str, sizes: Mapping[str, int]) -> None:
    """Raise a UserError if the files are larger than any of ours, or than the disk."""
    for name, size in sizes.items():
        if not 0 <= size <= LIMITS[name]:
            raise UserError(
                f"{address}: {name} is too large: {size / 1e6:,.0f} MB of at most "
                f"{LIMITS[name] / 1e6:,.0f}. Give another artifact."
            )
    needed, free = sum(sizes.values()), free_bytes(Path.cwd())
    if needed > free:
        raise UserError(
            f"{address}: the disk is too small: {free / 1e9:.2f} GB are free, and the run needs "
            f"{needed / 1e9:.2f} GB. Free some, or start the command from another folder."
        )


def _download(file: Any, path: Path) -> None:
    """Download a file of an artifact; stop at the size that W&B says.

    Raises:
        ValueError: it is a reference, or no file of that size.
        OSError, HTTPException: of the network or the disk.
    """
    url = file.direct_url
    if url == file.url or urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{path.name} is a reference to a file elsewhere")
    path.parent.mkdir(parents=True, exist_ok=True)
    left = file.size + 1
    with urllib.request.urlopen(url, timeout=REACH_TIMEOUT) as answer, open(path, "xb") as copy:
        while left and (piece := answer.read(min(left, PIECE))):
            left -= len(piece)
            copy.write(piece)
        copy.flush()
        os.fsync(copy.fileno())
    if left != 1:
        raise ValueError(f"{path.name} has another size than W&B says")


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Make a folder whole or not at all: yield a temporary one, and rename it at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
        temporary = Path(place, "run")
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # another process was quicker, with the same files
