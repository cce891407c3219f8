"""`data.download=true`, with a stand-in for gdown in place of Google Drive."""

from __future__ import annotations

import errno
import hashlib
import shutil
import sys
from pathlib import Path
from unittest.mock import create_autospec

import gdown
import pytest
from torchvision.datasets import CelebA

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    PARTITION,
    SIZES,
    ZIP,
    edit_lines,
    pack,
    refusal,
    require_whole,
    source,
)

LISTS = (ATTRIBUTE_LIST, "identity_CelebA.txt", "list_landmarks_align_celeba.txt", PARTITION)
BY_HAND = ("mmlab.ie.cuhk.edu.hk", "Kaggle", "flwrlabs/celeba")
QUOTA = "<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"


class Drive:
    """Google Drive as gdown sees it: files by their ids, and what was asked for."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.asked: list[str] = []
        self.instead = {}  # name -> what is done to the file's place instead of fetching it

    def download(self, *, id, output, **_others):
        self.asked.append(id)
        fetch = self.instead.get(id, lambda output: shutil.copy(self.files / id, output))
        fetch(Path(output))


@pytest.fixture
def drive(celeba_made, monkeypatch):
    """CelebA's files as torchvision knows them, but the stand-in's; a file's id is its name."""
    files = celeba_made("zip")
    official = {name for _, _, name in CelebA.file_list}
    assert official == {ZIP, "list_bbox_celeba.txt", *LISTS}
    entries = [("?", "", "list_bbox_celeba.txt")]
    for name in (ZIP, *LISTS):
        entries.append((name, hashlib.md5((files / name).read_bytes()).hexdigest(), name))
    monkeypatch.setattr(CelebA, "file_list", entries)
    made = Drive(files)
    download = create_autospec(gdown.download, side_effect=made.download)
    monkeypatch.setattr(gdown, "download", download)
    return made


@pytest.fixture
def place(tmp_path):
    return tmp_path / "root" / "celeba"


def fail(error):
    def failing(output):
        raise error

    return failing


def test_files_arrive_and_the_archive_is_read_in_place(drive, place, pixels):
    packed = pack(place, download=True)

    assert sorted(drive.asked) == sorted([ZIP, *LISTS])
    assert drive.asked[-1] == ZIP  # the large one, when all else is there
    assert sorted(p.name for p in place.iterdir() if p.name[0] != ".") == sorted(drive.asked)
    require_whole(source(place), pixels)
    drive.asked.clear()
    assert pack(place, download=True).folder == packed.folder
    assert drive.asked == []


@pytest.mark.parametrize("layout", ["kaggle", "parquet"])
def test_existing_files_are_not_downloaded(layout, drive, celeba_in, monkeypatch):
    folder = celeba_in(layout)
    assert source(folder, download=True).sizes() == SIZES

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for file in folder.glob("list_eval*"):
        edit_lines(file, lambda lines: [*lines, "000031.jpg,x"])
    refusal(folder, download=True)  # what is wrong in the user's own files is for the user
    assert drive.asked == []


@pytest.mark.parametrize("there", [None, b"", b"PK\3\4 half of it", QUOTA.encode()])
def test_missing_and_damaged_files_are_downloaded(there, drive, celeba_in, pixels):
    folder = celeba_in("zip")
    (folder / ZIP).write_bytes(there) if there is not None else (folder / ZIP).unlink()

    require_whole(source(folder, download=True), pixels)
    assert drive.asked == [ZIP]


def test_nothing_is_downloaded_by_default(drive, place):
    assert "data.download=true" in refusal(place)
    assert drive.asked == []


def test_missing_gdown_is_reported(drive, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)

    assert "pip install gdown" in refusal(place, download=True)


FAILED = f"data.download: {ZIP}: could not be fetched ("


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        (lambda output: output.write_text(QUOTA), f"{FAILED}Google Drive sent a web page"),
        (
            fail(RuntimeError("\n\tToo many users have viewed this.\n\tTry.")),
            f"{FAILED}RuntimeError: Too many users have viewed this.)",
        ),
        (lambda output: output.write_bytes(b"PK"), f"{FAILED}RuntimeError: File not found"),
        (lambda output: output.write_bytes(b""), f"{FAILED}RuntimeError: File not found"),
        (fail(KeyError()), f"{FAILED}KeyError: )"),
        (fail(OSError(errno.ENOSPC, "No space left on device")), f"{FAILED}OSError: [Errno 28]"),
    ],
)
def test_a_failed_file_is_reported(instead, says, drive, place):
    drive.instead[ZIP] = instead

    text = refusal(place, download=True)
    for part in (says, f"Put it into {place}", *BY_HAND):
        assert part in text
    assert not ("web page" in says and (place / ZIP).exists())  # not under the archive's name
    del drive.instead[ZIP]  # the next day
    drive.asked.clear()
    assert source(place, download=True).sizes() == SIZES
    assert drive.asked == [ZIP]  # those before it were there


def test_an_unwritable_root_is_reported(drive, tmp_path):
    (tmp_path / "file").write_text("")

    text = refusal(tmp_path / "file" / "celeba", download=True, root=str(tmp_path))
    assert str(tmp_path / "file" / "celeba") in text
    assert "Not a directory" in text
