"""A damaged image archive: errors name the file and the remedy."""

from __future__ import annotations

import os
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile

import pytest

from tests.support.celeba_shards import IMAGES, ZIP, pack, refusal, rewrite_zip

JPEG = f"{IMAGES}/000013.jpg"
HINT = "data.on_corrupt=skip"


@pytest.fixture
def zipped(celeba_in):
    """The archive, beside CelebA's lists."""
    return celeba_in("zip") / ZIP


def overwrite_entry(archive, place, new):
    """Change bytes of the image's entry in the archive's directory."""
    start = archive.read_bytes().rindex(JPEG.encode()) - 46
    with archive.open("r+b") as file:
        file.seek(start + place)
        file.write(new)


def require_named(archive):
    """The damaged image is named, and left out on demand."""
    text = refusal(archive.parent)
    assert f"{archive}: 000013.jpg: the archive is damaged here" in text
    assert HINT in text
    (skipped,) = pack(archive.parent, on_corrupt="skip").skipped()
    assert "000013.jpg" in skipped


@pytest.mark.parametrize("left", [0.6, 0.999, 0.01])
def test_truncated_archives_are_refused(left, zipped):
    size = int(zipped.stat().st_size * left)
    os.truncate(zipped, size)

    text = refusal(zipped.parent)
    assert f"{zipped}: is no zip archive, or is truncated: after {size:,} bytes its end" in text
    assert f"Get {ZIP} again" in text


@pytest.mark.parametrize("method", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("count", [1, 300])
def test_a_damaged_member_is_named(method, count, zipped):
    rewrite_zip(zipped, lambda name, jpeg: jpeg, method)
    with ZipFile(zipped) as archive:
        info = archive.getinfo(JPEG)
    with zipped.open("r+b") as file:
        file.seek(info.header_offset + 60 + info.compress_size // 2)
        flipped = bytes(byte ^ 0x55 for byte in file.read(count))
        file.seek(-count, os.SEEK_CUR)
        file.write(flipped)

    require_named(zipped)


def test_a_huge_member_is_not_unpacked(zipped):
    rewrite_zip(zipped, lambda name, jpeg: bytes(1 << 27) if name == JPEG else jpeg)

    require_named(zipped)


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (16, b"\0\0\0\0"),  # its checksum
        (20, b"\xff\xff\xff\x7f"),  # its packed size
        (42, b"\xff\xff\xff\x7f"),  # its place
    ],
)
def test_a_damaged_entry_is_named(place, new, zipped):
    overwrite_entry(zipped, place, new)

    require_named(zipped)


@pytest.mark.parametrize(
    ("place", "new", "says"),
    [
        (0, b"XXXX", "the archive is damaged"),  # the entry's signature
        (6, b"\xff\0", "the archive is damaged"),  # the version that is needed to read it
        (28, b"\xff\xff", "lacks 18 of the 30 images"),  # the length of its name
    ],
)
def test_a_damaged_directory_is_refused(place, new, says, zipped):
    overwrite_entry(zipped, place, new)

    assert says in refusal(zipped.parent)
    assert str(zipped) in refusal(zipped.parent, on_corrupt="skip")


def add(name):
    def added(archive):
        with ZipFile(archive, "a") as opened:
            opened.writestr(name, b"evil")

    return added


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (add("../evil.jpg"), "points outside"),
        (add("/abs.jpg"), "points outside"),
        (add("C:\\x.jpg"), "points outside"),
        (add("img\\..\\..\\x.jpg"), "points outside"),
        (lambda archive: overwrite_entry(archive, 8, b"\1"), "is encrypted"),
        (add("img_celeba/000001.jpg"), "'img_celeba/000001.jpg' is in two of its folders"),
        (lambda archive: rewrite_zip(archive, lambda _, jpeg: jpeg, ZIP_BZIP2), "unpack"),
    ],
)
def test_odd_members_are_refused_unread(change, says, zipped):
    change(zipped)
    for on_corrupt in ("error", "skip"):
        text = refusal(zipped.parent, on_corrupt=on_corrupt)
        assert f"{zipped}: its member " in text
        assert says in text
        assert f"Get {ZIP} again" in text
