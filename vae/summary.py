"""summary.json: how a run ended, in its folder."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from vae.files import write_text_atomically

FILE = "summary.json"


def read_summary(folder: Path) -> dict[str, Any]:
    """What the run in `folder` left, {} if it never came to an end."""
    try:
        summary = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """Replace the summary, whole, with the time added."""
    summary = {**summary, "ended": datetime.now().isoformat(timespec="milliseconds")}
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    write_text_atomically(folder / FILE, text)


def record_failure(folder: Path, error: str) -> None:
    """Note why a run failed, beside what it had measured until then."""
    write_summary(folder, {**read_summary(folder), "status": "failed", "error": error})
