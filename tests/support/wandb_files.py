"""Reads the log that wandb writes of an offline run, so that tests can see what it holds.

The file (`wandb/*/run-*.wandb`) is a sequence of protobuf records in the framing
of a LevelDB log: blocks of 32 KiB, and in each block chunks of a 7-byte header
(checksum, length, type) and a payload. A record is one whole chunk or is split
over several. https://github.com/google/leveldb/blob/main/doc/log_format.md
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


class OfflineRun:
    """One run as wandb wrote it down; `exit_code` is None until the run has ended."""

    def __init__(self, path: Path) -> None:
        from wandb.proto import wandb_internal_pb2

        self.folder = path.parent
        self.config: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []  # as logged
        self.summary: dict[str, Any] = {}
        self.step_metrics: dict[str, str] = {}  # metric or glob -> its x axis
        self.artifacts: list[tuple[str, str]] = []  # name, type
        self.alerts: list[tuple[str, str, str]] = []  # title, text, level
        self.exit_code: int | None = None
        for data in _records(path.read_bytes()):
            record = vars(wandb_internal_pb2)["Record"]()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            content = getattr(record, kind)
            if kind == "run":
                self.id, self.project = content.run_id, content.project
                self.entity, self.notes = content.entity, content.notes
                self.sweep_id = content.sweep_id
                self.name, self.group = content.display_name, content.run_group
                self.job_type, self.tags = content.job_type, list(content.tags)
                _merge(self.config, content.config.update)
            elif kind == "history":
                self.rows.append({})
                _merge(self.rows[-1], content.item)
            elif kind in ("config", "summary"):
                _merge(getattr(self, kind), content.update)
            elif kind == "metric":
                self.step_metrics[content.name or content.glob_name] = content.step_metric
            elif kind == "artifact":
                self.artifacts.append((content.name, content.type))
            elif kind == "alert":
                self.alerts.append((content.title, content.text, content.level))
            elif kind == "exit":
                self.exit_code = content.exit_code
        self.config.pop("_wandb", None)

    @property
    def metric_rows(self) -> list[dict[str, Any]]:
        """The rows of numbers, without those of pictures and without wandb's own keys."""
        numbers = (row for row in self.rows if not any(isinstance(v, dict) for v in row.values()))
        return [{k: v for k, v in row.items() if not k.startswith("_")} for row in numbers]

    @property
    def pictures(self) -> dict[str, Path]:
        """The image files in the run's folder, by the key under which they were logged."""
        return self._files("image-file")

    @property
    def image_lists(self) -> dict[str, list[tuple[str, Path]]]:
        """The lists of images as they were logged last: caption and file of each, by key."""
        return {
            key: [
                (caption, self.folder / "files" / name)
                for caption, name in zip(value["captions"], value["filenames"], strict=True)
            ]
            for row in self.rows
            for key, value in row.items()
            if isinstance(value, dict) and value.get("_type") == "images/separated"
        }

    @property
    def tables(self) -> dict[str, Path]:
        """The tables, as JSON files with `columns` and `data`."""
        return self._files("table-file")

    def _files(self, kind: str) -> dict[str, Path]:
        return {
            key: self.folder / "files" / value["path"]
            for row in self.rows
            for key, value in row.items()
            if isinstance(value, dict) and value.get("_type") == kind
        }


def read_runs(folder: Path, timeout: float = 10.0) -> list[OfflineRun]:
    """The offline runs under `folder`/wandb; waits until each has its exit record.

    wandb's service completes the file a few milliseconds after `finish()` returns.
    """
    deadline = time.monotonic() + timeout
    while True:
        paths = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
        runs = [OfflineRun(path) for path in paths]
        if time.monotonic() > deadline or all(run.exit_code is not None for run in runs):
            return runs
        time.sleep(0.02)


def read_run(folder: Path) -> OfflineRun:
    """The only run under `folder`/wandb."""
    (run,) = read_runs(folder)
    return run


def _records(data: bytes) -> Iterator[bytes]:
    position, record = 7, b""  # behind the file's own header
    while position + HEADER.size <= len(data):
        room = BLOCK - position % BLOCK
        if room < HEADER.size:  # too little for a header: padding
            position += room
            continue
        _, length, kind = HEADER.unpack_from(data, position)
        position += HEADER.size
        chunk = data[position : position + length]
        position += length
        if kind not in (WHOLE, FIRST, MIDDLE, LAST) or len(chunk) < length:
            return
        record = chunk if kind in (WHOLE, FIRST) else record + chunk
        if kind in (WHOLE, LAST):
            yield record


def _merge(into: dict[str, Any], items: Any) -> None:
    """Put items into nested dictionaries: an item's key is one name, or the path to it."""
    for item in items:
        *path, name = item.nested_key or [item.key]
        place = into
        for part in path:
            place = place.setdefault(part, {})
        place[name] = json.loads(item.value_json)
