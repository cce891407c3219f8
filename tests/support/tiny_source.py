"""A small source of noise, and helpers to pack it in this process or in a fork."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from tqdm import tqdm

from vae.data.base import SPLITS, FilesConfig, ImageError, Labels
from vae.data.cache import open_or_pack

SIZES = {"train": 200, "val": 70, "test": 30}
JOBS = [("train", 0), ("train", 64), ("train", 128), ("train", 192)]
JOBS += [("val", 0), ("val", 64), ("test", 0)]
KINDS = {"attributes": np.int8, "factors": np.float32, "identities": np.int32}
KINDS |= {"landmarks": np.int16}
BAD = [("train", 0), ("train", 70), ("train", 71), ("val", 69), ("test", 3)]


@dataclass
class Tiny:
    """A source of noise that notes each call to `read` in a file.

    Labels are row numbers, attributes whether these are odd.
    """

    calls: Path
    size: int = 8
    fails: str = ""  # what goes wrong at val's first image
    bad: Sequence[tuple[str, int]] = ()  # images that cannot be read
    kinds: Iterable[str] = ("attributes", "identities")
    says: str = "truncated."  # of the bad images
    gate: Path | None = None  # all jobs but the first wait until this file is there
    name: ClassVar[str] = "tiny"

    def fingerprint(self) -> dict[str, Any]:
        return {"size": self.size}

    def sizes(self) -> dict[str, int]:
        return SIZES

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        with open(self.calls, "a") as file:
            file.write(f"{split} {start} {os.getpid()}\n")
        if self.gate and (split, start) != JOBS[0]:
            wait_until(self.gate.exists)
        if self.fails == "disk" and split == "val":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.fails == "killed" and split == "val":
            os._exit(9)
        if self.fails == "interrupt" and split == "val":
            raise KeyboardInterrupt
        for number in range(start, stop):
            if (split, number) in self.bad:
                raise ImageError(f"{split}-{number}.jpg: {self.says}")
        noise = np.random.default_rng(SPLITS.index(split))
        return noise.integers(0, 256, (SIZES[split], self.size, self.size, 3), np.uint8)[start:stop]

    def check(self) -> None:
        pass

    def labels(self, split: str) -> dict[str, Labels]:
        rows = np.repeat(np.arange(SIZES[split], dtype=np.uint8)[:, None], 2, axis=1)
        return {
            kind: Labels(
                (f"{kind} a", f"{kind} b"),
                (rows % 2 if kind == "attributes" else rows).astype(KINDS[kind]),
            )
            for kind in self.kinds
        }


def config(
    root: Path, size: int = 8, num_workers: int | None = 1, skip: bool = False
) -> FilesConfig:
    on_corrupt = "skip" if skip else "error"
    return FilesConfig("tiny", str(root), size, 2, None, False, num_workers, on_corrupt)


def caches(root: Path) -> list[Path]:
    return [path for path in (root / "cache").iterdir() if not path.name.startswith(".")]


def partials(root: Path) -> list[Path]:
    return list((root / "cache").glob(".*.partial"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def _calls(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def asked(calls: Path) -> list[tuple[str, int]]:
    """Split and first image of each call to `read`."""
    return [(split, int(start)) for split, start, _ in _calls(calls)]


def pids(calls: Path) -> set[int]:
    return {int(pid) for _, _, pid in _calls(calls)}


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def read_all(source: Any) -> dict[str, np.ndarray]:
    return {split: source.read(split, 0, count) for split, count in source.sizes().items()}


def whole(tmp_path: Path) -> dict[str, bytes]:
    """The cache of an uninterrupted packing."""
    source = Tiny(tmp_path / "whole_calls")
    return contents(open_or_pack(source, config(tmp_path / "whole")).folder)


def noted(partial: Path) -> list[tuple[str, int]]:
    """Split and first image of each finished chunk."""
    names = [marker.name.split("-") for marker in (partial / "done").iterdir()]
    return [(split, int(start)) for split, start, _ in names]


def cut(root: Path, size: int = 8) -> Path:
    """A packing that was interrupted after the train split."""
    with pytest.raises(KeyboardInterrupt):
        open_or_pack(Tiny(root / "cut", size, fails="interrupt"), config(root, size))
    assert caches(root) == []
    (partial,) = partials(root)
    return partial


def in_a_fork(do: Callable[[], object]) -> int:
    """The id of a process, a copy of this one, that does something."""
    if not (pid := os.fork()):
        # tqdm's own lock is one for all forks: killed while holding it, we would stop them all.
        tqdm.set_lock(threading.RLock())
        signal.signal(signal.SIGINT, signal.default_int_handler)
        failed = 1
        try:
            do()
            failed = 0
        finally:
            os._exit(failed)
    return pid
