"""summary.json: how a run ended, in its folder."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path
from typing import Any

from vae.files import read_json, write_json

FILE = "summary.json"

log = logging.getLogger(__name__)


def read_summary(folder: Path) -> dict[str, Any]:
    """What the run in `folder` left, {} if it never came to an end."""
    return read_json(folder / FILE)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Replace the summary, whole, with the time added."""
    now = datetime.now().isoformat(timespec="milliseconds")
    write_json(folder / FILE, {**summary, "ended": now})


def record_failure(folder: Path, error: str) -> None:
    """Note why a run failed, beside what it had measured until then; if there is room for it."""
    try:
        write_summary(folder, {**read_summary(folder), "status": "failed", "error": error})
    except OSError as reason:
        log.warning("%s: why it failed cannot be noted (%s)", folder, reason)
