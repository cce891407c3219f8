"""The packed cache: made once, whole or not at all, the same bytes as the source's."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vae.data import cache, packing
from vae.data.cache import open_or_pack
from vae.data.folder import FolderConfig, FolderSource
from vae.data.source import SPLITS, DataConfig, Labels
from vae.errors import UserError

SIZES = {"train": 200, "val": 70, "test": 30}  # 4 + 2 + 1 jobs


class Tiny:
    """A source of noise that notes each call to `read` in a file."""

    name = "tiny"

    def __init__(self, calls: Path, size: int = 8, fails: str = "", seconds: float = 0.0) -> None:
        self.calls, self.size, self.fails, self.seconds = calls, size, fails, seconds

    def fingerprint(self) -> dict[str, Any]:
        return {"size": self.size}

    def sizes(self) -> dict[str, int]:
        return SIZES

    def read(self, split: str, start: int, stop: int) -> np.ndarray:
        with open(self.calls, "a") as file:
            file.write(f"{split} {start} {os.getpid()}\n")
        time.sleep(self.seconds)
        if self.fails == "image" and split == "val":
            raise UserError("bad.jpg: truncated")
        if self.fails == "disk" and split == "val":
            raise OSError(errno.ENOSPC, "No space left on device")
        if self.fails == "killed" and split == "val":
            os._exit(9)
        noise = np.random.default_rng(SPLITS.index(split))
        return noise.integers(0, 256, (SIZES[split], self.size, self.size, 3), np.uint8)[start:stop]

    def attributes(self, split: str) -> Labels | None:
        return Labels(("Male", "Young"), np.full((SIZES[split], 2), len(split), np.int8))

    def factors(self, split: str) -> Labels | None:
        return None


def config(root: Path, size: int = 8, num_workers: int | None = 1) -> DataConfig:
    return DataConfig("tiny", str(root), size, 2, None, False, num_workers)


def caches(root: Path) -> list[Path]:
    return [path for path in (root / "cache").iterdir() if not path.name.startswith(".")]


def partials(root: Path) -> list[Path]:
    return list((root / "cache").glob(".*.partial"))


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers, however little there is to do."""
    monkeypatch.setattr(packing, "POOL_PAYS_FROM", -1)


def read_all(source: Any) -> dict[str, np.ndarray]:
    return {split: source.read(split, 0, count) for split, count in source.sizes().items()}


def test_holds_what_the_source_reads_memory_mapped_and_read_only(tmp_path, calls):
    packed = open_or_pack(Tiny(calls), config(tmp_path))

    assert packed.folder == caches(tmp_path)[0]
    assert packed.folder.name.startswith("tiny-8px-")
    for split, images in read_all(Tiny(calls)).items():
        assert isinstance(packed.images[split], np.memmap)
        assert not packed.images[split].flags.writeable
        assert packed.images[split].dtype == np.uint8
        assert (packed.images[split] == images).all()
        labels = packed.attributes(split)
        assert labels is not None
        assert labels.names == ("Male", "Young")
        assert (labels.values == len(split)).all()
        assert labels.values.shape == (SIZES[split], 2)
        assert packed.factors(split) is None
    assert json.loads((packed.folder / "index.json").read_text())["fingerprint"] == {"size": 8}


def test_packs_pictures_and_shows_its_progress(tmp_path, pictures, capfd):
    settings = FolderConfig("folder", str(tmp_path), 16, 2, None, False, None, str(pictures))
    packed = open_or_pack(FolderSource(settings), settings)

    for split, images in read_all(FolderSource(settings)).items():
        assert (packed.images[split] == images).all()
    shown = capfd.readouterr()
    assert "packing folder 16 px" in shown.err
    assert "60/60" in shown.err
    assert shown.out == ""


def test_the_second_time_reads_nothing(tmp_path, calls):
    open_or_pack(Tiny(calls), config(tmp_path))
    first = calls.read_text()
    again = open_or_pack(Tiny(calls), config(tmp_path))

    assert calls.read_text() == first
    assert again.images["train"].shape == (200, 8, 8, 3)


def test_another_setting_is_another_cache(tmp_path, calls):
    open_or_pack(Tiny(calls), config(tmp_path))
    other = open_or_pack(Tiny(calls, size=16), config(tmp_path, 16))

    assert len(caches(tmp_path)) == 2
    assert other.images["val"].shape == (70, 16, 16, 3)


@pytest.mark.usefixtures("pool")
def test_workers_pack_the_same_bytes(tmp_path, calls):
    alone = open_or_pack(Tiny(calls), config(tmp_path / "alone"))
    pids = {line.split()[2] for line in calls.read_text().splitlines()}
    assert pids == {str(os.getpid())}

    together = open_or_pack(Tiny(calls), config(tmp_path / "together", num_workers=2))
    for split in SPLITS:
        ours = (alone.folder / f"{split}.npy").read_bytes()
        assert (together.folder / f"{split}.npy").read_bytes() == ours
    assert {line.split()[2] for line in calls.read_text().splitlines()} > pids


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(
    ("num_workers", "fails", "says"),
    [
        (1, "image", r"^bad\.jpg: truncated$"),
        (2, "image", r"^bad\.jpg: truncated$"),
        (1, "disk", r"data\.root: .*became full"),
    ],
)
def test_an_error_arrives_and_leaves_nothing_behind(tmp_path, calls, num_workers, fails, says):
    with pytest.raises(UserError, match=says):
        open_or_pack(Tiny(calls, fails=fails), config(tmp_path, num_workers=num_workers))

    assert caches(tmp_path) == partials(tmp_path) == []


@pytest.mark.usefixtures("pool")
def test_a_worker_that_dies_is_an_error_too(tmp_path, calls):
    with pytest.raises(UserError, match=r"data\.num_workers: a packing process died"):
        open_or_pack(Tiny(calls, fails="killed"), config(tmp_path, num_workers=2))

    assert caches(tmp_path) == partials(tmp_path) == []


def test_a_disk_too_small_is_said_before_anything_is_read(tmp_path, calls, monkeypatch):
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=300 * 192 - 1))
    with pytest.raises(UserError, match=r"data\.root: .* 0\.00 GB free"):
        open_or_pack(Tiny(calls), config(tmp_path))

    assert not calls.exists()


def test_a_root_that_is_a_file(tmp_path, calls):
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"data\.root: .*root: the cache cannot be written there"):
        open_or_pack(Tiny(calls), config(tmp_path / "root"))


def cut_images(folder: Path) -> None:
    os.truncate(folder / "train.npy", 1000)


def drop_labels(folder: Path) -> None:
    (folder / "val.attributes.npy").unlink()


def cut_index(folder: Path) -> None:
    os.truncate(folder / "index.json", 20)


def drop_index(folder: Path) -> None:
    (folder / "index.json").unlink()


def other_format(folder: Path) -> None:
    (folder / "index.json").write_text('{"format": 0, "bytes": {}}')


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (cut_images, "train.npy is damaged"),
        (drop_labels, "val.attributes.npy is missing"),
        (cut_index, "index.json is damaged"),
        (drop_index, "index.json is missing"),
        (other_format, "format 0"),
    ],
)
def test_a_damaged_cache_is_reported_and_made_again(
    tmp_path: Path, calls: Path, caplog: Any, damage: Callable[[Path], None], says: str
) -> None:
    damage(open_or_pack(Tiny(calls), config(tmp_path)).folder)
    with caplog.at_level(logging.WARNING):
        packed = open_or_pack(Tiny(calls), config(tmp_path))

    assert [record.message for record in caplog.records if says in record.message]
    for split, images in read_all(Tiny(calls)).items():
        assert (packed.images[split] == images).all()
    assert packed.attributes("val") is not None


ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def packing_code(root: Path, calls: Path, num_workers: int) -> str:
    """A program that packs slowly."""
    return (
        "from pathlib import Path\n"
        "from tests.data import test_cache as t\n"
        "t.packing.POOL_PAYS_FROM = -1\n"
        f"source = t.Tiny(Path({str(calls)!r}), seconds=0.3)\n"
        f"t.open_or_pack(source, t.config(Path({str(root)!r}), num_workers={num_workers}))\n"
    )


def start_packing(root: Path, calls: Path, num_workers: int) -> subprocess.Popen[bytes]:
    """Another process that packs slowly."""
    code = packing_code(root, calls, num_workers)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=ENV, stderr=subprocess.DEVNULL
    )


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc").exists(), reason="looks into /proc")
def test_a_killed_packing_leaves_no_cache_and_no_workers(tmp_path, calls):
    packer = start_packing(tmp_path, calls, num_workers=2)
    # the first job is the parent's own, the next ones its workers'
    wait_until(lambda: calls.exists() and len(calls.read_text().splitlines()) >= 3)
    packer.kill()
    packer.wait()

    pids = {int(line.split()[2]) for line in calls.read_text().splitlines()}
    assert len(pids) > 1
    wait_until(lambda: not any(map(is_alive, pids)), seconds=30)
    assert caches(tmp_path) == []
    assert len(partials(tmp_path)) == 1

    packed = open_or_pack(Tiny(calls), config(tmp_path))
    assert (packed.images["test"] == read_all(Tiny(calls))["test"]).all()
    assert partials(tmp_path) == []


def test_two_processes_at_once_pack_once(tmp_path, calls, caplog):
    packer = start_packing(tmp_path, calls, num_workers=1)
    wait_until(calls.exists)
    with caplog.at_level(logging.INFO):
        packed = open_or_pack(Tiny(calls), config(tmp_path))

    assert packer.wait(60) == 0
    assert "another process is packing it; waiting" in caplog.text
    assert {line.split()[2] for line in calls.read_text().splitlines()} == {str(packer.pid)}
    assert (packed.images["test"] == read_all(Tiny(calls))["test"]).all()


def test_a_script_without_a_main_guard_ends_with_the_reason(tmp_path, calls):
    script = tmp_path / "script.py"
    script.write_text(packing_code(tmp_path, calls, num_workers=2))
    result = subprocess.run(
        [sys.executable, script], cwd=ROOT, env=ENV, capture_output=True, text=True, timeout=60
    )

    assert result.returncode != 0
    assert "must do so under `if __name__ == '__main__':`" in result.stderr.splitlines()[-1]
    assert caches(tmp_path) == partials(tmp_path) == []
