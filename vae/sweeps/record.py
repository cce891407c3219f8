"""sweep.json: how a sweep was started, in its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vae.files import write_text_atomically

FILE = "sweep.json"


def read_record(sweep: Path) -> dict[str, Any]:
    """What is noted of the sweep in this folder, {} if nothing is."""
    try:
        record = json.loads((sweep / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(sweep: Path, record: dict[str, Any]) -> None:
    """Replace the record, whole."""
    write_text_atomically(sweep / FILE, json.dumps(record, indent=2) + "\n")
