"""Helpers for the tests of CelebA: a stand-in is opened, compared with its contents, or edited."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
import pytest
from PIL import Image

from tests.support.celeba_stand_in import ATTRIBUTES, attribute_values, identities, landmarks
from tests.support.data_sets import CELEBA_IMAGES, GROUP
from vae.cli.main import main
from vae.data import CelebAConfig, Packed, open_or_pack
from vae.data.celeba import CelebASource
from vae.utils.errors import UserError

IMAGES = "img_align_celeba"
ZIP = f"{IMAGES}.zip"
PARTITION, ATTRIBUTE_LIST = "list_eval_partition.txt", "list_attr_celeba.txt"
SPLITS = ("train", "val", "test")
SIZES = {"train": 24, "val": 3, "test": 3}
ROWS = {"train": slice(0, 24), "val": slice(24, 27), "test": slice(27, 30)}  # among all images
USUAL = {"image_size": 16, "batch_size": 2, "num_images": None, "flip": True, "crop": 148}


@cache
def known() -> dict[str, np.ndarray]:
    """The stand-in's own arrays: what the labels of all images are, in their order."""
    return {
        "attributes": attribute_values(CELEBA_IMAGES).astype(np.int8),
        "identities": identities(CELEBA_IMAGES)[:, None].astype(np.int32),
        "landmarks": landmarks(CELEBA_IMAGES).astype(np.int16),
    }


def config(path: Path | None, **settings: Any) -> CelebAConfig:
    """`data=celeba` at a path, 16 pixels; caches go beside the path."""
    places = {"path": path and str(path), "root": path and str(path.parent)}
    return CelebAConfig(name="celeba", **(USUAL | {"num_workers": 1} | places | settings))


def source(path: Path | None, **settings: Any) -> CelebASource:
    return config(path, **settings).source()


def pack(path: Path, **settings: Any) -> Packed:
    """Open the data as a run does."""
    return open_or_pack(source(path, **settings), config(path, **settings))


def refusal(path: Path, **settings: Any) -> str:
    """Return the error of packing; check that no cache was made."""
    with pytest.raises(UserError) as caught:
        pack(path, **settings)
    root = Path(settings.get("root", path.parent))
    assert not list(root.glob("cache/celeba-*"))
    return str(caught.value)


def vae_pack(capsys: Any, path: Path, *more: str) -> tuple[int, dict[str, Any], str]:
    """`vae pack celeba data.path=... --json`: exit code, what it prints, stderr."""
    settings = [f"data.path={path}", f"data.root={path.parent}", "data.image_size=16"]
    code = main(["pack", "celeba", *settings, "data.num_workers=1", "--json", *more])
    out, err = capsys.readouterr()
    return code, json.loads(out or "{}"), err


def require_whole(faces: CelebASource, pixels: np.ndarray) -> None:
    """Compare all images with `pixels`, and the labels that there are with `known`."""
    faces.check()
    assert faces.sizes() == SIZES
    for split, rows in ROWS.items():
        assert (faces.read(split, 0, SIZES[split]) == pixels[rows]).all()
        labels = faces.labels(split)
        assert labels["attributes"].names == ATTRIBUTES
        for kind, label in labels.items():
            assert label.values.dtype == known()[kind].dtype
            np.testing.assert_array_equal(label.values, known()[kind][rows])
            assert len(label.names) == label.values.shape[1]


def require_packed(packed: Packed, pixels: np.ndarray, rows: Mapping[str, Any] = ROWS) -> None:
    """Compare packed images, and labels of each kind there is, with these rows of all."""
    for split in SPLITS:
        assert (packed.images[split] == pixels[rows[split]]).all()
        for kind in packed.label_names():
            values = getattr(packed, kind)(split).values
            np.testing.assert_array_equal(values, known()[kind][rows[split]])


def by_pil(content: bytes, crop: int | None = 148, size: int = 16) -> np.ndarray:
    """The pixels as Pillow alone has them."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    side = min(crop or 178, 178, 218)
    left, top = (178 - side) // 2, (218 - side) // 2
    box = image.crop((left, top, left + side, top + side))
    return np.asarray(box.resize((size, size), Image.Resampling.BILINEAR))


def edit_lines(file: Path, change: Callable[[list[str]], Sequence[str]]) -> None:
    file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")


def rewrite_zip(
    archive: Path,
    change: Callable[[str, bytes], bytes | None] = lambda name, content: content,
    method: int = ZIP_DEFLATED,
    rename: Callable[[str], str] = str,
) -> None:
    """Pack an archive again with other members: `change(name, content)`; None leaves one out."""
    with ZipFile(archive) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with ZipFile(archive, "w") as new:
        for name, content in members.items():
            if (changed := change(name, content)) is not None:
                new.writestr(ZipInfo(rename(name)), changed, method)


def edit_shard(file: Path, change: Callable[[Any], Any]) -> None:
    """Write a shard again, not compressed, as `change(table)` has it."""
    import pyarrow.parquet as pq

    pq.write_table(change(pq.read_table(file)), file, GROUP, compression="none")


def set_column(name: str, values: Callable[[list[Any]], Any]) -> Callable[[Any], Any]:
    """A change for `edit_shard`: another column, made of the list of its cells."""
    import pyarrow as pa

    def change(table: Any) -> Any:
        column = pa.array(values(table[name].to_pylist()))
        return table.set_column(table.column_names.index(name), name, column)

    return change
