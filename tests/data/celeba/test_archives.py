"""A damaged image archive: errors name the file and the remedy."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile

import pytest

from tests.support.celeba_shards import IMAGES, ZIP, pack, refusal, rewrite_zip, vae_pack

JPEG = f"{IMAGES}/000013.jpg"
AGAIN = f"Get {ZIP} again"
HINT = "data.on_corrupt=skip"


@pytest.fixture
def zipped(celeba_in):
    """The archive, beside CelebA's lists."""
    return celeba_in("zip") / ZIP


def entry(archive: Path) -> int:
    """Where the image's entry in the archive's directory begins."""
    return archive.read_bytes().rindex(JPEG.encode()) - 46


def overwrite(archive: Path, place: int, new: bytes) -> None:
    with archive.open("r+b") as file:
        file.seek(place)
        file.write(new)


@pytest.mark.parametrize("left", [0.6, 0.999, 0.01])
def test_truncated_archives_are_refused(left, zipped):
    size = int(zipped.stat().st_size * left)
    with zipped.open("r+b") as file:
        file.truncate(size)

    text = refusal(zipped.parent)
    assert f"{zipped}: is no zip archive, or is truncated: after {size:,} bytes its end" in text
    assert AGAIN in text


@pytest.mark.parametrize("method", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("count", [1, 300])
def test_a_damaged_member_is_named(method, count, zipped, capsys):
    rewrite_zip(zipped, lambda name, jpeg: jpeg, method)
    with ZipFile(zipped) as archive:
        info = archive.getinfo(JPEG)
    middle = info.header_offset + 60 + info.compress_size // 2
    flipped = bytes(byte ^ 0x55 for byte in zipped.read_bytes()[middle : middle + count])
    overwrite(zipped, middle, flipped)

    text = refusal(zipped.parent)
    assert f"{zipped}: 000013.jpg: the archive is damaged here" in text
    assert HINT in text
    code, _, err = vae_pack(capsys, zipped.parent)
    assert (code, "Traceback" in err) == (1, False)
    assert f"error: {text}" in err
    assert len(pack(zipped.parent, on_corrupt="skip").skipped()) == 1


@pytest.mark.parametrize(
    ("place", "new"),
    [
        (0, b"XXXX"),  # the entry's signature
        (6, b"\xff\0"),  # the version that is needed to read it
        (16, b"\0\0\0\0"),  # its checksum
        (20, b"\0\1\0\0"),  # its packed size
        (28, b"\xff\xff"),  # the length of its name
        (42, b"\xff\xff\xff\x7f"),  # its place
    ],
)
def test_a_damaged_directory(place, new, zipped):
    overwrite(zipped, entry(zipped) + place, new)

    text = refusal(zipped.parent)
    assert str(zipped) in text
    if place in (16, 20, 42):
        assert f"{zipped}: 000013.jpg: the archive is damaged here" in text
        assert HINT in text
        assert "000013.jpg" in "".join(pack(zipped.parent, on_corrupt="skip").skipped())
    else:
        assert "the archive is damaged" in text or "lacks 18 of the 30 images" in text
        assert str(zipped) in refusal(zipped.parent, on_corrupt="skip")


@pytest.mark.parametrize("place", [4, 12, 20])  # size, packed size and place, of 8 bytes each
@pytest.mark.parametrize("value", [1 << 40, (1 << 64) - 1])
def test_a_damaged_directory_of_a_large_archive(place, value, zipped, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # every member is a large one
    rewrite_zip(zipped, lambda name, jpeg: jpeg)
    pack(zipped.parent)
    shutil.rmtree(zipped.parents[1] / "cache")
    extra = entry(zipped) + 46 + len(JPEG)
    overwrite(zipped, extra + place, value.to_bytes(8, "little"))
    if place == 4:  # of the image unpacked: not needed
        pack(zipped.parent)
        return

    text = refusal(zipped.parent)
    assert f"{zipped}: 000013.jpg: the archive is damaged here" in text
    (skipped,) = pack(zipped.parent, on_corrupt="skip").skipped()
    assert "000013.jpg" in skipped


def add(name):
    def added(archive):
        with ZipFile(archive, "a") as opened:
            opened.writestr(name, b"evil")

    return added


@pytest.mark.parametrize(
    ("change", "says"),
    [
        *(
            (add(name), "points outside")
            for name in ("../evil.jpg", "/abs.jpg", "C:\\x.jpg", "..\\evil.jpg", "img/../../x.jpg")
        ),
        (lambda archive: overwrite(archive, entry(archive) + 8, b"\1"), "is encrypted"),
        (add("img_celeba/000001.jpg"), "'img_celeba/000001.jpg' is in two of its folders"),
        *(
            (lambda archive, method=m: rewrite_zip(archive, lambda _, jpeg: jpeg, method), "unpack")
            for m in (ZIP_BZIP2, ZIP_LZMA)
        ),
    ],
)
def test_odd_members_are_refused_unread(change, says, zipped, tmp_path):
    change(zipped)
    before = sorted(tmp_path.rglob("*.jpg"))
    for on_corrupt in ("error", "skip"):
        text = refusal(zipped.parent, on_corrupt=on_corrupt)
        assert f"{zipped}: its member " in text
        assert says in text
        assert AGAIN in text
    assert sorted(tmp_path.rglob("*.jpg")) == before
    assert not Path("/abs.jpg").exists()
