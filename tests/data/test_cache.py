"""The packed cache: the source's bytes, verified at each opening, on a disk that may be full."""

from __future__ import annotations

import errno
import os
import random
import re
import resource
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from tests.support.tiny_source import (
    BAD,
    JOBS,
    KINDS,
    SIZES,
    Tiny,
    asked,
    caches,
    config,
    contents,
    cut,
    in_a_fork,
    partials,
    pids,
    read_all,
)
from vae.cli.main import main
from vae.data import partial_cache
from vae.data.base import LABEL_DTYPES, Labels
from vae.data.cache import open_or_pack, verify
from vae.utils.errors import UserError
from vae.utils.files import verify_checksum, with_checksum


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make train.npy a header and 25 chunks of 8 images."""
    monkeypatch.setattr(partial_cache, "CHUNK", 8)


@pytest.mark.parametrize("kinds", [(), tuple(KINDS)])
def test_a_cache_holds_images_and_labels(tmp_path, calls, kinds):
    source = Tiny(calls, kinds=kinds)
    open_or_pack(source, config(tmp_path))
    calls.unlink()
    packed = open_or_pack(source, config(tmp_path))

    assert not calls.exists()  # an existing cache is opened without reading the source
    assert [packed.folder] == caches(tmp_path)
    assert packed.folder.name.startswith("tiny-8px-")
    assert packed.skipped() == []
    assert packed.label_names() == {kind: [f"{kind} a", f"{kind} b"] for kind in kinds}
    for split, images in read_all(source).items():
        assert isinstance(packed.images[split], np.memmap)
        assert not packed.images[split].flags.writeable
        assert packed.images[split].dtype == np.uint8
        assert (packed.images[split] == images).all()
        for kind, dtype in KINDS.items():
            labels = getattr(packed, kind)(split)
            assert (labels is not None) == (kind in kinds)
            if labels is not None:
                assert labels.names == (f"{kind} a", f"{kind} b")
                assert labels.values.dtype == dtype
                assert (labels.values == source.labels(split)[kind].values).all()

    other = open_or_pack(Tiny(calls, size=16), config(tmp_path, 16))
    assert len(caches(tmp_path)) == 2
    assert other.images["val"].shape == (70, 16, 16, 3)


@dataclass
class Labelled(Tiny):
    """A source with labels of the kind "attributes" or another, as a user's own has."""

    kind: str = "attributes"
    change: Callable[[np.ndarray], np.ndarray] = np.asarray  # of the values, int8 of 0 and 1

    def labels(self, split: str) -> dict[str, Labels]:
        known = super().labels(split)["attributes"]
        return {self.kind: Labels(known.names, self.change(known.values))}


@pytest.mark.parametrize("kind", ["attributes", "factors", "head-poses"])
@pytest.mark.parametrize(("dtype", "order"), [("i8", "C"), ("f8", "F"), ("?", "C"), (">i2", "C")])
def test_labels_of_other_dtypes_are_converted_where_a_kind_has_one(
    tmp_path, calls, kind, dtype, order
):
    source = Labelled(calls, kind=kind, change=lambda values: values.astype(dtype, order))
    folder = open_or_pack(source, config(tmp_path)).folder
    values = np.load(folder / f"val.{kind}.npy")
    assert values.dtype == LABEL_DTYPES.get(kind, np.dtype(dtype))
    assert (values == Tiny(calls).labels("val")["attributes"].values).all()
    calls.unlink()
    open_or_pack(source, config(tmp_path))
    assert not calls.exists()  # it is not packed again
    assert verify(source, config(tmp_path)).folder == folder


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("attributes", lambda values: 2 * values - 1, "attributes other than 0 and 1"),
        ("attributes", lambda values: values + 0.5, "values that do not fit into int8"),
        ("identities", lambda values: values + 1e12, "values that do not fit into int32"),
        ("factors", lambda values: values / 0, "factors that are not finite"),
        ("poses", lambda values: values.astype(str), "numbers of shape"),
        ("poses", lambda values: values[1:], r"shape \(199, 2\), .* of shape \(200, 2\)"),
        ("../poses", np.asarray, "the names"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide")
def test_labels_that_a_cache_cannot_have_are_refused_before_packing(
    tmp_path, calls, kind, change, says
):
    with pytest.raises(UserError, match=rf"data\.name: tiny: its labels of train: {kind} .*{says}"):
        open_or_pack(Labelled(calls, kind=kind, change=change), config(tmp_path))
    assert not calls.exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("num_workers", [1, 2])
def test_skip_leaves_out_unreadable_images(tmp_path, calls, caplog, num_workers):
    source = Tiny(calls, bad=BAD, kinds=KINDS, says="of\ttwo\nlines, \u2028caf\udce9")
    packed = open_or_pack(source, config(tmp_path, num_workers=num_workers, skip=True))

    assert len(pids(calls)) > num_workers - 1
    for split, images in read_all(Tiny(calls)).items():
        kept = [row for row in range(SIZES[split]) if (split, row) not in BAD]
        assert (packed.images[split] == images[kept]).all()
        for kind in KINDS:
            known = source.labels(split)[kind].values[kept]
            assert (getattr(packed, kind)(split).values == known).all()
    reason = r"of\ttwo\nlines, \u2028caf\udce9"  # on one line, escaped
    listed = [f"{split}\t{row}\t{split}-{row}.jpg: {reason}" for split, row in BAD]
    assert packed.skipped() == listed
    assert verify(source, config(tmp_path, skip=True)).skipped() == listed

    caplog.clear()  # said at each opening
    open_or_pack(source, config(tmp_path, skip=True))
    assert f"images left out: 5, listed in {packed.folder}" in caplog.text
    says = r"data\.on_corrupt: is `error`, .* left out: 5, .* train-0\.jpg: of.*two.* fix them"
    with pytest.raises(UserError, match=says):
        open_or_pack(source, config(tmp_path))


def test_a_cache_is_packed_again_once_all_its_images_are_readable(tmp_path, calls, caplog):
    folder = open_or_pack(Tiny(calls, bad=BAD), config(tmp_path, skip=True)).folder
    before = contents(folder)
    for still_bad in BAD:
        with pytest.raises(UserError, match="left out: 5"):
            open_or_pack(Tiny(calls, bad=[still_bad]), config(tmp_path))
        assert contents(folder) == before
    calls.unlink()
    open_or_pack(Tiny(calls), config(tmp_path, skip=True))
    assert not calls.exists()
    assert contents(folder) == before

    packed = open_or_pack(Tiny(calls), config(tmp_path))
    assert "images that were left out can be read now; packing it again" in caplog.text
    caplog.clear()  # without unreadable images, `skip` changes nothing
    other = open_or_pack(Tiny(calls), config(tmp_path / "other", skip=True))
    assert contents(packed.folder) == contents(other.folder)
    assert "left out" not in caplog.text


def test_a_split_without_an_image_is_refused(tmp_path, calls):
    bad = [("val", row) for row in range(SIZES["val"])]
    with pytest.raises(UserError, match=r"nothing of val: none of its .* val-0\.jpg"):
        open_or_pack(Tiny(calls, bad=bad), config(tmp_path, skip=True))
    assert caches(tmp_path) == []

    packed = open_or_pack(Tiny(tmp_path / "mended"), config(tmp_path))
    assert (packed.images["val"] == read_all(Tiny(calls))["val"]).all()
    assert asked(tmp_path / "mended") == JOBS[4:6]


def flipped(content: bytes, place: int = -1) -> bytes:
    """Change one bit of a byte."""
    changed = bytearray(content)
    changed[place] ^= 0x10
    return bytes(changed)


def damage(file: Path, change: Callable[[bytes], bytes]) -> None:
    file.write_bytes(change(file.read_bytes()))


def renamed(index: bytes) -> bytes:
    assert b"attributes a" in index
    return index.replace(b"attributes a", b"attributes c")


DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes] | None, str]] = {
    "images cut": ("train.npy", lambda images: images[:1000], "train.npy is damaged"),
    "header": ("train.npy", partial(flipped, place=0), "train.npy is damaged"),
    "end of header": ("train.npy", partial(flipped, place=127), "train.npy is damaged"),
    "a label": ("val.attributes.npy", flipped, "val.attributes.npy is damaged"),
    "no labels": ("val.attributes.npy", None, "val.attributes.npy is missing"),
    "index cut": ("index.json", lambda index: index[:20], "index.json is damaged"),
    "another name": ("index.json", renamed, "index.json is damaged"),
    "no checksum": (
        "index.json",
        lambda index: renamed(index).replace(b'crc32": ', b'src32": '),
        "index.json is damaged",
    ),
    "brackets": ("index.json", lambda _: b"[" * 100_000, "index.json is damaged"),
    "an older format": (
        "index.json",
        lambda _: with_checksum({"format": 2}).encode(),
        "has format 2, not 3",
    ),
}


@pytest.mark.parametrize(("name", "change", "says"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_reported_and_packed_again(tmp_path, calls, caplog, name, change, says):
    packed = open_or_pack(Tiny(calls), config(tmp_path))
    whole = contents(packed.folder)
    if change:
        damage(packed.folder / name, change)
    else:
        (packed.folder / name).unlink()
    with pytest.raises(UserError, match=says):
        verify(Tiny(calls), config(tmp_path))
    caplog.clear()
    open_or_pack(Tiny(calls), config(tmp_path))

    (warning,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert says in warning
    assert warning.endswith("; packing it again")
    assert contents(packed.folder) == whole


def to(array: np.ndarray, **how: Any) -> Callable[[Path], None]:
    """Save another array; `how` as for np.save."""
    return lambda file: np.save(file, array, **how)


def nan(file: Path) -> None:
    values = np.load(file)
    values[3, 1] = np.nan
    np.save(file, values)


def index_with(**changes: Any) -> Callable[[Path], None]:
    return lambda file: file.write_text(with_checksum(verify_checksum(file.read_text()) | changes))


def seal(folder: Path, name: str) -> None:
    """Write the checksum of a file that was replaced into the index."""
    index = verify_checksum((folder / "index.json").read_text())
    content = (folder / name).read_bytes()
    index["files"][name] = [[len(content), zlib.crc32(content)]]
    (folder / "index.json").write_text(with_checksum(index))


LABELS = {"attributes": ["attributes a", "attributes b"]}
SKIPPED = "skipped.txt"
FORGED: list[tuple[str, Callable[[Path], Any]]] = [
    ("val.npy", to(np.zeros((0, 8, 8, 3), np.uint8))),
    ("val.npy", lambda file: os.truncate(file, file.stat().st_size + 1)),
    ("val.npy", to(np.zeros((70, 8, 8, 3), np.float32))),
    ("val.npy", to(np.asfortranarray(np.zeros((70, 8, 8, 3), np.uint8)))),
    ("val.npy", to(np.full((70, 8, 8, 3), None), allow_pickle=True)),
    ("val.npy", lambda file: file.write_bytes(b"\x93NUMPY\1\0\x76\0{'descr': (")),
    ("train.attributes.npy", to(np.zeros((200, 3), np.int8))),
    ("train.attributes.npy", to(np.full((200, 2), 7, np.int8))),
    ("train.factors.npy", nan),
    ("train.factors.npy", to(np.zeros((200, 2), np.float64))),
    (SKIPPED, lambda file: file.write_text("val\t70\tgone\n")),
    (SKIPPED, lambda file: file.write_text("val\tsix\tgone\n")),
    ("index.json", index_with(labels=None)),
    ("index.json", index_with(labels=LABELS)),
    ("index.json", index_with(labels=LABELS | {"factors": "ab"})),
    ("index.json", index_with(labels=LABELS | {"factors": [1, 2]})),
    ("index.json", index_with(labels=LABELS | {"factors": ["a", "a"]})),
    ("index.json", index_with(labels=LABELS | {"../factors": ["a", "b"]})),
    ("index.json", index_with(files={"../../secret": [[1, 2]]})),
    ("index.json", lambda file: file.write_text(with_checksum({"format": 3}))),
]


@pytest.mark.parametrize(("name", "forge"), FORGED)
def test_a_forged_cache_is_reported_and_packed_again(tmp_path, calls, name, forge):
    """The checksums are right, the content is not."""
    source = Tiny(calls, kinds=("attributes", "factors"))
    folder = open_or_pack(source, config(tmp_path)).folder
    whole = contents(folder)
    forge(folder / name)
    if name != "index.json":
        seal(folder, name)
    with pytest.raises(UserError, match=rf"{folder}: {name} is damaged \(.*Remove this folder"):
        verify(source, config(tmp_path))
    open_or_pack(source, config(tmp_path))
    assert contents(folder) == whole


def test_a_pipe_in_a_cache_is_not_waited_for(tmp_path, calls):
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    for name in contents(folder):
        (folder / name).rename(tmp_path / name)
        os.mkfifo(folder / name)
        with pytest.raises(UserError, match=rf"{name}: cannot be read: not a regular .* remove"):
            open_or_pack(Tiny(calls), config(tmp_path))
        (tmp_path / name).replace(folder / name)


@pytest.mark.usefixtures("short_chunks")
def test_verify_reads_every_byte(tmp_path, calls):
    file = open_or_pack(Tiny(calls), config(tmp_path)).folder / "train.npy"
    verify(Tiny(calls), config(tmp_path))
    whole = file.read_bytes()
    last = len(whole) - 1
    borders = [128, 128 + 8 * 192 - 1, 128 + 8 * 192, last]
    for place in borders + random.Random(0).sample(range(128, last), 20):
        file.write_bytes(flipped(whole, place))
        start = 128 + (place - 128) // (8 * 192) * (8 * 192)
        says = rf"train\.npy is damaged in 1 of 26 .* \(the first at byte {start:,}\)"
        with pytest.raises(UserError, match=says):
            verify(Tiny(calls), config(tmp_path))

    file.write_bytes(flipped(flipped(whole, 500), last))
    with pytest.raises(UserError, match=r"train\.npy is damaged in 2 of 26"):
        verify(Tiny(calls), config(tmp_path))


@pytest.mark.usefixtures("short_chunks")
def test_a_start_reads_both_ends_and_the_middle(tmp_path, calls, monkeypatch, caplog):
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    files = len(contents(folder))
    with monkeypatch.context() as patch:
        counted = Mock(wraps=zlib.crc32)
        patch.setattr(zlib, "crc32", counted)
        open_or_pack(Tiny(calls), config(tmp_path))
    assert files <= counted.call_count <= 4 * files

    for place in (128, 128 + 90 * 192, 128 + 199 * 192):
        damage(folder / "train.npy", partial(flipped, place=place))
        caplog.clear()
        open_or_pack(Tiny(calls), config(tmp_path))
        assert "train.npy is damaged in 1 of 4" in caplog.text


@pytest.mark.parametrize("read", [open_or_pack, verify])
def test_a_read_error_is_no_damage(tmp_path, calls, monkeypatch, read):
    """A disk that is away for a moment: the cache is not packed again."""
    folder = open_or_pack(Tiny(calls), config(tmp_path)).folder
    before = contents(folder)

    stale = OSError(errno.ESTALE, "Stale file handle", str(folder / "val.npy"))
    monkeypatch.setattr("vae.data.integrity._damage", Mock(side_effect=stale))
    with pytest.raises(UserError, match=rf"{folder}/val\.npy: cannot be read: Stale file handle"):
        read(Tiny(calls), config(tmp_path))
    assert contents(folder) == before


def test_packing_and_verifying_by_the_command(tmp_path, pictures, capsys):
    arguments = ["pack", "folder", f"data.root={tmp_path}", f"data.path={pictures}"]
    arguments += ["data.image_size=256", "data.batch_size=2"]
    verifying = [*arguments, "--verify"]
    assert main(verifying) == 1
    assert "nothing is packed yet" in capsys.readouterr().err
    assert main(arguments) == 0
    shown = capsys.readouterr().err
    assert "packing folder 256 px" in shown
    assert "60/60" in shown
    assert main(verifying) == 0
    assert "every byte as it was written" in capsys.readouterr().out

    (folder,) = caches(tmp_path)
    damage(folder / "train.npy", partial(flipped, place=(1 << 20) + 77))
    assert main(verifying) == 1
    said = capsys.readouterr()
    assert f"{folder}: train.npy is damaged in 1 of" in said.err
    assert "every byte" not in said.out


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


def test_disk_space_for_the_rest_is_asked_for_before_reading(tmp_path, calls, monkeypatch):
    def pack(images: float) -> Path:
        set_free(monkeypatch, round(images * 3 * 64**2))
        return open_or_pack(Tiny(calls, 64), config(tmp_path, 64)).folder

    too_small = r"data\.root: .* the disk is too small: 0\.00 GB are free"
    with pytest.raises(UserError, match=too_small):
        pack(299.9)
    set_free(monkeypatch, 300 * 3 * 64**2)
    cut(tmp_path, size=64)  # packs the 200 images of train
    with pytest.raises(UserError, match=too_small):
        pack(50)
    assert not calls.exists()
    folder = pack(105)
    (folder / "index.json").unlink()  # a damaged cache counts as free space
    pack(1)


@pytest.mark.usefixtures("quick")
def test_a_full_disk_in_a_worker_is_freed(tmp_path, calls):
    with pytest.raises(UserError, match=r"data\.root: .*the disk is full, so packing stopped"):
        open_or_pack(Tiny(calls, fails="disk"), config(tmp_path, num_workers=2))
    assert caches(tmp_path) == partials(tmp_path) == []


IMAGES = sum(SIZES.values()) * 3 * 64**2


@pytest.mark.parametrize("size", [None, 2 << 20, IMAGES + 6 * 4096])
def test_a_disk_can_become_full_at_any_write(small_disk, tmp_path, calls, monkeypatch, size):
    """`size` of the disk: too small for images, or for labels; None: a limit of file sizes."""
    root = small_disk(size) if size else tmp_path / "root"
    set_free(monkeypatch, 1 << 40)  # it is others who fill it

    def pack() -> None:
        if not size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
        try:
            open_or_pack(Tiny(calls, 64), config(root, 64))
        except UserError as error:
            (tmp_path / "said").write_text(str(error))

    _, status = os.waitpid(in_a_fork(pack), 0)
    assert os.waitstatus_to_exitcode(status) == 0, "killed"
    said = (tmp_path / "said").read_text()
    what = "the disk is full" if size else "files may not become that large there"
    assert f"data.root: {root}: {what}, so packing stopped and removed its files: " in said
    assert re.search(r"\d\.\d\d GB are free, and the packed images need 0\.00 GB", said)
    assert caches(root) == partials(root) == []


def test_a_root_that_is_a_file_is_refused(tmp_path, calls):
    (tmp_path / "root").write_text("")
    with pytest.raises(UserError, match=r"data\.root: .*root: the cache cannot be written there"):
        open_or_pack(Tiny(calls), config(tmp_path / "root"))
