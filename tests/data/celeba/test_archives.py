"""The image archive, intact or damaged: errors name the file and the remedy."""

from __future__ import annotations

import random
import re
import shutil
import zipfile
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile

import pytest

from tests.support.celeba_shards import (
    IMAGES,
    PARTITION,
    ZIP,
    all_pixels,
    pack,
    refusal,
    rewrite_zip,
    source,
    vae_pack,
)
from tests.support.celeba_stand_in import names as all_names
from vae.utils.errors import UserError

AGAIN = f"Get {ZIP} again"
HINT = "data.on_corrupt=skip"


@pytest.fixture
def zipped(celeba_in):
    """CelebA with its archive left packed."""
    return celeba_in("zip")


@pytest.fixture
def pixels(celeba_made):
    return all_pixels(source(celeba_made("official")))


def build(archive: Path, jpegs: dict[str, bytes], method: int = ZIP_DEFLATED) -> None:
    with ZipFile(archive, "w", method) as new:
        for name, content in jpegs.items():
            new.writestr(name, content)


def contents(archive: Path) -> dict[str, bytes]:
    with ZipFile(archive) as old:
        return {name: old.read(name) for name in all_members()}


def all_members() -> list[str]:
    return [f"{IMAGES}/{name}" for name in all_names(30)]


def entry(content: bytes, name: str) -> int:
    """Where a member's entry in the archive's directory begins."""
    return content.rindex(name.encode()) - 46


def overwrite(archive: Path, place: int, new: bytes) -> None:
    with archive.open("r+b") as file:
        file.seek(place)
        file.write(new)


@pytest.mark.parametrize("method", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("above", ["", "celeba/img_align_celeba/", "./"])
def test_members_of_any_folder_and_either_method(method, above, zipped, pixels):
    files = {above + Path(name).name: jpeg for name, jpeg in contents(zipped / ZIP).items()}
    more = {"__MACOSX/._000001.jpg": b"", f"{above}README.txt": b"", f"{above}.hidden.jpg": b""}
    folder = {above: b""} if above else {}
    build(zipped / ZIP, folder | more | dict(reversed(files.items())), method)

    assert (all_pixels(source(zipped)) == pixels).all()
    pack(zipped)


def test_an_archive_after_other_bytes_and_with_extra_fields(zipped, pixels):
    """As a self-extracting one; and zip64's and Unix's extra fields before the data."""
    whole = (zipped / ZIP).read_bytes()
    (zipped / ZIP).write_bytes(b"PK\3\4" + bytes(1000) + whole)
    assert (all_pixels(source(zipped)) == pixels).all()

    files = contents(zipped / ZIP)
    with ZipFile(zipped / ZIP, "w") as new:
        for name, jpeg in files.items():
            with new.open(name, "w", force_zip64=True) as member:
                member.write(jpeg)
    assert (all_pixels(source(zipped)) == pixels).all()


def test_nothing_is_unpacked(zipped):
    before = sorted(zipped.rglob("*"))
    pack(zipped)

    assert sorted(zipped.rglob("*")) == before


@pytest.mark.parametrize("left", [0.6, 0.999, 0.01])
def test_truncated_archives_are_refused(left, zipped):
    size = int((zipped / ZIP).stat().st_size * left)
    with (zipped / ZIP).open("r+b") as file:
        file.truncate(size)

    text = refusal(zipped)
    assert f"{zipped / ZIP}: the archive is truncated: after {size:,} bytes its end" in text
    assert AGAIN in text


@pytest.mark.parametrize("content", [b"", b"Rar!\x1a\7\0" * 99, b"\0" * 5000])
def test_files_that_are_no_archives_are_refused(content, zipped):
    (zipped / ZIP).write_bytes(content)

    text = refusal(zipped)
    assert str(zipped / ZIP) in text
    assert AGAIN in text


@pytest.mark.parametrize("method", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("count", [1, 300])
def test_a_damaged_member_is_named(method, count, zipped, capsys):
    build(zipped / ZIP, contents(zipped / ZIP), method)
    with ZipFile(zipped / ZIP) as archive:
        info = archive.getinfo(f"{IMAGES}/000013.jpg")
    middle = info.header_offset + 60 + info.compress_size // 2
    content = (zipped / ZIP).read_bytes()
    flipped = bytes(byte ^ 0x55 for byte in content[middle : middle + count])
    overwrite(zipped / ZIP, middle, flipped)

    text = refusal(zipped)
    assert f"{zipped / ZIP}: 000013.jpg: the archive is damaged here" in text
    assert HINT in text
    code, _, err = vae_pack(capsys, zipped)
    assert (code, "Traceback" in err) == (1, False)
    assert f"error: {text}" in err
    assert len(pack(zipped, on_corrupt="skip").skipped()) == 1


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
    content = (zipped / ZIP).read_bytes()
    overwrite(zipped / ZIP, entry(content, all_members()[12]) + place, new)

    text = refusal(zipped)
    assert str(zipped / ZIP) in text
    assert "000013.jpg" in text or "the archive is damaged" in text
    assert AGAIN in text or HINT in text
    if place in (16, 20, 42):
        assert "000013.jpg" in "".join(pack(zipped, on_corrupt="skip").skipped())
    else:
        assert str(zipped / ZIP) in refusal(zipped, on_corrupt="skip")


@pytest.mark.parametrize("place", [4, 12, 20])  # size, packed size and place, of 8 bytes each
@pytest.mark.parametrize("value", [1 << 40, (1 << 63) - 1, (1 << 64) - 1])
def test_a_damaged_directory_of_a_large_archive(place, value, zipped, monkeypatch):
    files = contents(zipped / ZIP)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)  # every member is a large one
    build(zipped / ZIP, files)
    pack(zipped)
    shutil.rmtree(zipped.parent / "cache")
    content = (zipped / ZIP).read_bytes()
    extra = entry(content, all_members()[12]) + 46 + len(all_members()[12])
    overwrite(zipped / ZIP, extra + place, value.to_bytes(8, "little"))
    if place == 4:  # of the image unpacked: not needed
        pack(zipped)
        return

    text = refusal(zipped)
    assert str(zipped / ZIP) in text
    assert "000013.jpg: the archive is damaged here" in text
    assert HINT in text
    (skipped,) = pack(zipped, on_corrupt="skip").skipped()
    assert "000013.jpg" in skipped


def test_random_damage_gives_images_or_user_errors(zipped, pixels):
    """Bytes changed in the directory, and anywhere: never another image, never a traceback."""
    whole = (zipped / ZIP).read_bytes()
    chance = random.Random(0)
    directory = entry(whole, all_members()[0])
    expected = {"train": pixels[:24], "val": pixels[24:27], "test": pixels[27:]}
    refused = 0
    for number in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            place = chance.randrange(directory if number % 2 else 0, len(damaged))
            damaged[place] = chance.randrange(256)
        (zipped / ZIP).write_bytes(damaged)
        try:
            faces = source(zipped)
            faces.check()
            for split, images in expected.items():
                assert (faces.read(split, 0, len(images)) == images).all()
        except UserError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("damage", [lambda jpeg: jpeg[:2000], lambda jpeg: b"hello"])
def test_an_image_that_was_bad_before_it_was_zipped(damage, zipped):
    rewrite_zip(zipped / ZIP, lambda name, jpeg: damage(jpeg) if name.endswith("13.jpg") else jpeg)

    text = refusal(zipped)
    assert f"{zipped / ZIP}/000013.jpg: " in text
    assert re.search(r"truncated|not an image", text)
    assert HINT in text


def test_missing_and_unlisted_members_are_reported(zipped):
    rewrite_zip(zipped / ZIP, lambda name, jpeg: None if name.endswith("13.jpg") else jpeg)
    text = refusal(zipped)
    assert f"{zipped / ZIP} lacks 1 of the 30 images" in text
    assert "000013.jpg" in text

    lines = (zipped / PARTITION).read_text().splitlines(keepends=True)
    (zipped / PARTITION).write_text("".join(line for line in lines if line[4:6] not in "13 14"))
    text = refusal(zipped)
    assert "1 of the 29 images" in text
    assert "000014.jpg" in text


@pytest.mark.parametrize("on_corrupt", ["error", "skip"])
@pytest.mark.parametrize(
    "name",
    [
        "../evil.jpg",
        "/abs.jpg",
        "C:\\x.jpg",
        "..\\evil.jpg",
        "img/../../evil.jpg",
        "\\\\host\\x.jpg",
    ],
)
def test_members_with_paths_outside_are_refused(name, on_corrupt, zipped, tmp_path):
    build(zipped / ZIP, contents(zipped / ZIP) | {name: b"evil"})
    before = sorted(tmp_path.rglob("*.jpg"))
    text = refusal(zipped, on_corrupt=on_corrupt)
    assert str(zipped / ZIP) in text
    assert "points outside" in text
    assert AGAIN in text
    assert sorted(tmp_path.rglob("*.jpg")) == before
    assert not Path("/abs.jpg").exists()


@pytest.mark.parametrize("method", [ZIP_BZIP2, ZIP_LZMA])
def test_other_compression_methods_are_refused(method, zipped):
    build(zipped / ZIP, contents(zipped / ZIP), method)

    text = refusal(zipped)
    assert f"{zipped / ZIP}: is packed by a method" in text
    assert "Unpack it" in text


def test_encrypted_members_are_refused(zipped):
    content = (zipped / ZIP).read_bytes()
    overwrite(zipped / ZIP, entry(content, all_members()[4]) + 8, b"\1")  # a flag

    text = refusal(zipped)
    assert f"{zipped / ZIP}: is encrypted ({IMAGES}/000005.jpg)" in text
    assert AGAIN in text


def test_two_members_of_one_name_are_refused(zipped):
    """Which of them the labels are about, nobody knows."""
    with ZipFile(zipped / ZIP, "a") as archive:
        archive.writestr("img_celeba/000001.jpg", archive.read(all_members()[1]))

    for on_corrupt in ("error", "skip"):
        text = refusal(zipped, on_corrupt=on_corrupt)
        assert re.search(rf"{ZIP}: holds 000001\.jpg twice.*Unpack", text)
