"""`data.download=true`, with a stand-in for gdown in place of Google Drive."""

from __future__ import annotations

import errno
import hashlib
import inspect
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    SIZES,
    ZIP,
    all_pixels,
    pack,
    refusal,
    source,
    vae_pack,
)

BOXES = "list_bbox_celeba.txt"
LISTS = (ATTRIBUTE_LIST, "identity_CelebA.txt", "list_landmarks_align_celeba.txt", PARTITION)
BY_HAND = ("mmlab.ie.cuhk.edu.hk", "Kaggle", "flwrlabs/celeba")
QUOTA = "<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"


class Drive:
    """Google Drive as gdown sees it: files by their ids, and what was asked for."""

    def __init__(self, files: Path) -> None:
        self.files = files
        self.asked: list[str] = []
        self.instead = {}  # name -> what is done to the file's place instead of fetching it

    def download(self, url=None, output=None, quiet=False, *, id=None, **others):
        self.asked.append(id)
        if id in self.instead:
            return self.instead[id](Path(output))
        shutil.copy(self.files / id, output)
        return output


@pytest.fixture
def drive(celeba_made, monkeypatch):
    """CelebA's files as torchvision knows them, but the stand-in's; a file's id is its name."""
    from torchvision.datasets import CelebA

    files = celeba_made("zip")
    entries = [
        (name, hashlib.md5((files / name).read_bytes()).hexdigest(), name)
        for _, _, name in CelebA.file_list
    ]
    assert {name for name, *_ in entries} == {ZIP, BOXES, *LISTS}
    monkeypatch.setattr(CelebA, "file_list", entries)
    gdown = ModuleType("gdown")
    gdown.download = (made := Drive(files)).download
    monkeypatch.setitem(sys.modules, "gdown", gdown)
    return made


@pytest.fixture
def place(tmp_path):
    return tmp_path / "root" / "celeba"


def fail(error):
    def failing(output):
        raise error

    return failing


def test_files_arrive_and_the_archive_is_read_in_place(drive, place, celeba_made):
    packed = pack(place, download=True)

    assert sorted(drive.asked) == sorted([ZIP, *LISTS])
    assert drive.asked[-1] == ZIP  # the large one, when all else is there
    assert sorted(p.name for p in place.iterdir() if p.name[0] != ".") == sorted(drive.asked)
    expected = source(celeba_made("official"))
    assert (packed.images["train"] == expected.read("train", 0, SIZES["train"])).all()
    drive.asked.clear()
    assert pack(place, download=True).folder == packed.folder
    assert pack(place, download=False).folder == packed.folder
    assert drive.asked == []


def test_by_the_command(drive, tmp_path, capsys):
    code, found, _ = vae_pack(capsys, tmp_path / "celeba", "data.download=true")

    assert (code, found["images"]) == (0, SIZES)


@pytest.mark.parametrize("layout", ["official", "kaggle", "parquet"])
def test_existing_files_are_not_downloaded(layout, drive, celeba_in):
    assert source(celeba_in(layout), download=True).sizes() == SIZES
    assert drive.asked == []


@pytest.mark.parametrize("there", [None, b"", b"PK\3\4 half of it", QUOTA.encode()])
def test_missing_and_damaged_files_are_downloaded(there, drive, celeba_in):
    folder = celeba_in("zip")
    if there is None:
        (folder / ZIP).unlink()
    else:
        (folder / ZIP).write_bytes(there)

    assert len(all_pixels(source(folder, download=True))) == 30
    assert drive.asked == [ZIP]


def test_nothing_is_downloaded_by_default(drive, place):
    assert "data.download=true" in refusal(place)
    assert drive.asked == []


def test_missing_gdown_is_reported(drive, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "gdown", None)

    text = refusal(place, download=True)
    assert "pip install gdown" in text
    assert_leads_elsewhere(text, place)


def assert_leads_elsewhere(text, place):
    for part in (*BY_HAND, f"Put it into {place}"):
        assert part in text


def too_many_users():
    return RuntimeError(
        "\n\tToo many users have viewed or downloaded this file recently.\n\tTry again later."
    )


@pytest.mark.parametrize(
    ("instead", "says", "is_left"),
    [
        (lambda output: output.write_text(QUOTA), "web page .* quota .* tomorrow", False),
        (fail(too_many_users()), "Too many users have viewed.*Try again later", False),
        (fail(ConnectionError("no route to drive.google.com")), "no route.*Try again", False),
        (lambda output: output.write_bytes(b"PK\3\4other"), "MD5 is another.*Remove it", True),
        (fail(KeyError()), "could not be fetched .KeyError", False),
    ],
)
@pytest.mark.parametrize("name", [ZIP, PARTITION])
def test_a_failed_file_is_reported(name, instead, says, is_left, drive, place):
    drive.instead[name] = instead

    text = refusal(place, download=True)
    assert name in text
    assert re.search(says, text), text
    assert_leads_elsewhere(text, place)
    assert (place / name).exists() == is_left
    del drive.instead[name]  # the next day
    if not is_left:
        drive.asked.clear()
        assert source(place, download=True).sizes() == SIZES
        assert drive.asked[0] == name  # those before it were there


def test_a_failed_download_is_reported(drive, place):
    drive.instead[ZIP] = lambda output: None

    text = refusal(place, download=True)
    assert f"{ZIP}: " in text
    assert "is left as" not in text
    assert_leads_elsewhere(text, place)


def test_a_full_disk_is_reported(drive, place):
    drive.instead[ZIP] = fail(OSError(errno.ENOSPC, "No space left on device"))

    text = refusal(place, download=True)
    assert "the disk became full" in text
    assert str(place / ZIP) in text
    assert "GB" in text


def test_an_unwritable_root_is_reported(drive, tmp_path):
    (tmp_path / "file").write_text("")

    text = refusal(tmp_path / "file" / "celeba", download=True, root=str(tmp_path))
    assert str(tmp_path / "file" / "celeba") in text
    assert "Not a directory" in text


def test_gdown_accepts_torchvisions_arguments():
    gdown = pytest.importorskip("gdown")

    signature = inspect.signature(gdown.download)
    signature.bind(id="id", output="file", quiet=False, user_agent="Mozilla")


def test_two_runs_download_each_file_once(drive, place):
    assert source(place, download=True).sizes() == source(place, download=True).sizes()
    assert len(drive.asked) == len(set(drive.asked)) == 5
    assert not (place / IMAGES).exists()
