"""The run folder's beginning, and its end when the run never began."""

from __future__ import annotations

import shutil
from pathlib import Path

from vae.errors import UserError


class FolderTakenError(UserError):
    """The run folder is another run's."""


def claim_run_folder(folder: Path) -> None:
    """Make `folder` this run's: of two that want it, one gets it.

    Raises:
        FolderTakenError: it holds a run already, or one that has just begun.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / "checkpoints").mkdir()
    except FileExistsError:
        raise FolderTakenError(
            f"{folder} holds a run already. Go on with it by resume={folder}, "
            "or choose another folder by hydra.run.dir=FOLDER."
        ) from None


def forget_run_folder(folder: Path) -> None:
    """Remove what Hydra wrote into a run folder in which nothing was trained.

    A mistyped value must not leave an empty run behind. A folder with metrics in it is
    left alone, and so is whatever else lies there: only Hydra's own files go, then the
    folder and its parents below the current one, as long as they are empty.
    """
    if (folder / "metrics.jsonl").exists():
        return
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    (folder / "train.log").unlink(missing_ok=True)
    here = Path.cwd()
    for empty in (folder / "checkpoints", folder, *folder.parents):
        if not empty.exists():
            continue
        if folder not in (empty, empty.parent) and here not in empty.parents:
            return
        try:
            empty.rmdir()
        except OSError:  # not empty
            return
