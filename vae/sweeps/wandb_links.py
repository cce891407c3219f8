"""All W&B runs of a sweep in one folder, where `wandb leet` and `wandb sync` look for them.

Each run has its W&B files in its own folder, so that it can be moved or deleted as a
whole. W&B's tools want them side by side: links in `<sweep>/wandb/` are both.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

RUNS = ("run-*", "offline-run-*")  # what wandb calls the folder of a run


def link_runs(sweep: Path) -> None:
    """Bring the links in `<sweep>/wandb/` up to date with the runs of the sweep.

    `wandb/offline-run-X` → `../loss.beta=1e-05/wandb/offline-run-X`, so a sweep can be moved.
    Several processes may do this at once. Where there can be no links, there are none.
    """
    shelf = sweep / "wandb"
    try:
        for link in _matching(shelf, ""):
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)
        for run in _matching(sweep, "*/wandb/"):
            shelf.mkdir(exist_ok=True)
            with suppress(FileExistsError):
                (shelf / run.name).symlink_to(Path("..", run.relative_to(sweep)), True)
    except (OSError, NotImplementedError) as error:
        logger.info("%s holds no links to the W&B runs of its sweep: %s", shelf, error)


def _matching(folder: Path, below: str) -> list[Path]:
    return [path for runs in RUNS for path in sorted(folder.glob(below + runs))]
