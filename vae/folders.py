"""The run folder's end, when a run never began."""

from __future__ import annotations

import shutil
from pathlib import Path


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
    for empty in (folder, *folder.parents):
        if empty != folder and here not in empty.parents:
            return
        try:
            empty.rmdir()
        except OSError:  # not empty
            return
