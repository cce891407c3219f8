"""A stand-in for CelebA: its files, with drawn faces in them.

    python -m tests.support.celeba_stand_in FOLDER --layout official

The layouts are those in which people have CelebA: `official` (flat, as torchvision makes it),
`drive` (the authors' folders), `kaggle` (a folder in a folder, CSV), `zip` (official, but the
images not yet unzipped) and `parquet` (flwrlabs/celeba at Hugging Face). Names, sizes, splits
and lists are CelebA's; the content is made up. Attributes that can be drawn hold in the image.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import numpy as np
from PIL import Image
from tqdm import tqdm

NUM = 202_599
WIDTH, HEIGHT = 178, 218
SPARE = 14  # rows and columns that a base face has to spare, for images to be shifted
FINE, COARSE, QUALITY = 6.0, 12.0, 85  # the noise's spreads; with these, JPEGs of 7 to 12 KB
FACES = 400  # base faces, which all images are made from
FEW = 2_000  # images: below this, base faces are drawn small
GROUP, SHARD = 100, 8_600  # rows; SHARD gives the 19, 3 and 3 files of flwrlabs/celeba
LAYOUTS = ("official", "drive", "kaggle", "parquet", "zip")

NAMES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose
Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee
Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard
Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair
Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"""
ATTRIBUTES = tuple(NAMES.split())
POINTS = (
    "lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y "
    "leftmouth_x leftmouth_y rightmouth_x rightmouth_y"
)


def names(num: int) -> list[str]:
    """The images' names, in order."""
    return [f"{number:06d}.jpg" for number in range(1, num + 1)]


def split_sizes(num: int) -> tuple[int, int, int]:
    """How many images are for training, validation and testing, in CelebA's proportions."""
    if num < 3:
        raise ValueError(f"num: got {num}, but each of the three splits takes an image.")
    valid, test = (max(1, round(num * size / NUM)) for size in (19_867, 19_962))
    return num - valid - test, valid, test


# A row of these tables is the same whatever `num` is: they are filled from the first row on.


def attribute_values(num: int) -> np.ndarray:
    """(num, 40) int8 of 0 and 1: the base face's attributes, random where it has none."""
    import torch

    from vae.data.synthetic.faces import attributes

    drawn, of_face = attributes(torch.from_numpy(_factors()))
    values = _random("attributes").integers(0, 2, (num, 40), dtype=np.int8)
    columns = [ATTRIBUTES.index(name) for name in drawn]
    values[:, columns] = of_face.numpy()[_faces(num)]
    return values


def identities(num: int) -> np.ndarray:
    """(num,) int in 1..10177: who is in the image."""
    return _random("identities").integers(1, 10_178, num)


def landmarks(num: int) -> np.ndarray:
    """(num, 10) int, columns as in `POINTS`."""
    mean = (69, 109, 106, 113, 77, 142, 73, 152, 108, 154)
    return _random("landmarks").integers(-3, 4, (num, 10)) + mean


def make(
    folder: Path, layout: str = "official", num: int = NUM, shard: int = SHARD, group: int = GROUP
) -> None:
    """Make the data set.

    Args:
        folder: where; it is made unless it is there and empty.
        layout: one of `LAYOUTS`.
        num: how many images, >= 3. Below `FEW` the images are others, but the lists are not.
        shard: at most this many rows in a file of the layout `parquet`, in
        group: row groups of this many.

    Raises:
        FileExistsError: the folder is not empty.
    """
    split_sizes(num)  # refuses a `num` that is too small, before anything is made
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    values = attribute_values(num)
    jpegs = iter(tqdm(_paint(num), layout, num, unit=" images", disable=num < FEW))
    if layout == "parquet":
        _write_parquet(folder / "img_align+identity+attr", jpegs, values, shard, group)
        return
    _write_lists(folder, layout, values)
    if layout == "zip":
        with ZipFile(folder / "img_align_celeba.zip", "w") as archive:
            archive.writestr("img_align_celeba/", b"")
            for name, jpeg in zip(names(num), jpegs, strict=True):
                archive.writestr(ZipInfo(f"img_align_celeba/{name}"), jpeg, ZIP_DEFLATED)
        return
    above = {"official": "", "drive": "Img", "kaggle": "img_align_celeba"}[layout]
    images = folder / above / "img_align_celeba"
    images.mkdir(parents=True)
    for name, jpeg in zip(names(num), jpegs, strict=True):
        (images / name).write_bytes(jpeg)


def _write_lists(folder: Path, layout: str, values: np.ndarray) -> None:
    """The text files, each with its own spacing as published, or Kaggle's CSV files."""
    num = len(values)
    splits = np.repeat([0, 1, 2], split_sizes(num))
    files = {  # its rows, how a row is written, and the names in its header
        "Anno/list_attr_celeba": (2 * values - 1, "%s" + " %2d" * 40, " ".join(ATTRIBUTES) + " "),
        "Anno/list_landmarks_align_celeba": (landmarks(num), "%s %d" + "%5d" * 9, POINTS),
        "Anno/identity_CelebA": (identities(num)[:, None], "%s %d", ""),
        "Eval/list_eval_partition": (splits[:, None], "%s %d", ""),
    }
    for path, (rows, row, header) in files.items():
        file = folder / (path if layout == "drive" else Path(path).name)
        file.parent.mkdir(exist_ok=True)
        if layout == "kaggle":
            if file.name == "identity_CelebA":
                continue
            columns = header.split() or ["partition"]
            row, top = "%s" + ",%d" * len(columns), ",".join(("image_id", *columns)) + "\n"
        else:
            top = f"{num}\n{header}\n" if header else ""
        with file.with_suffix(".csv" if layout == "kaggle" else ".txt").open("w") as lines:
            lines.write(top)
            pairs = zip(names(num), rows.tolist(), strict=True)
            lines.writelines(row % (name, *cells) + "\n" for name, cells in pairs)


def _write_parquet(
    folder: Path, jpegs: Iterator[bytes], values: np.ndarray, shard: int, group: int
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    paths, people = names(len(values)), identities(len(values))
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    flags = dict.fromkeys(ATTRIBUTES, pa.bool_())
    schema = pa.schema({"image": image, "celeb_id": pa.int64(), **flags})
    ends = np.cumsum(split_sizes(len(values)))
    splits = np.split(np.arange(len(values)), ends[:-1])
    for split, numbers in zip(("train", "valid", "test"), splits, strict=True):
        shards = np.array_split(numbers, -(-len(numbers) // shard))
        for number, rows in enumerate(shards):
            file = folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
            table = {
                "image": [{"bytes": next(jpegs), "path": paths[row]} for row in rows],
                "celeb_id": people[rows],
                **dict(zip(ATTRIBUTES, values[rows].T.astype(bool), strict=True)),
            }
            pq.write_table(pa.table(table, schema), file, row_group_size=group)


def _paint(num: int) -> Iterator[bytes]:
    """The images' JPEGs, in order: like photographs, no two alike, of the base faces."""
    used, faces = np.unique(_faces(num), return_inverse=True)
    # At full size a face takes 45 ms to draw; at 64 pixels, enlarged, 4 ms, and tests do not mind.
    base = _draw(_factors()[used], 64 if num < FEW else HEIGHT + SPARE)
    # Each image's noise is cut from large pieces: making it takes longer than all the rest.
    noise = _random("noise")
    fine = noise.normal(0, FINE, (600, 600, 3)).astype(np.float32)
    small = noise.normal(128, COARSE, (40, 40, 1)).clip(0, 255).astype(np.uint8)
    coarse = _enlarge(small.repeat(3, axis=2), 600).astype(np.float32) - 128
    for number, face in enumerate(faces.tolist(), start=1):
        random = np.random.default_rng([0, number])
        picture = _cut(base[face], random)
        if random.random() < 0.5:
            picture = picture[:, ::-1]
        gain = random.uniform(0.8, 1.15) * random.uniform(0.95, 1.05, 3).astype(np.float32)
        # In rows: numpy takes five times as long to multiply along an axis of 3.
        picture = (picture.reshape(HEIGHT, -1) * np.tile(gain, WIDTH)).reshape(picture.shape)
        picture += _cut(coarse, random)
        picture += _cut(fine, random)
        file = io.BytesIO()
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        image.save(file, "JPEG", quality=QUALITY, subsampling="4:2:0")
        yield file.getvalue()


def _cut(picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A piece of an image's size, from anywhere in the picture."""
    top, left = random.integers((picture.shape[0] - HEIGHT + 1, picture.shape[1] - WIDTH + 1))
    return picture[top : top + HEIGHT, left : left + WIDTH]


def _enlarge(picture: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def _random(use: str) -> np.random.Generator:
    """A generator for each use; an image's own is seeded [0, number], and numbers are not 0."""
    return np.random.default_rng([0, 0, *use.encode()])


def _faces(num: int) -> np.ndarray:
    """(num,) int: the base face of each image."""
    return _random("faces").integers(FACES, size=num)


def _factors() -> np.ndarray:
    from vae.data.synthetic.faces import sample_factors

    return sample_factors("rich", FACES, 0)


def _draw(factors: np.ndarray, size: int) -> np.ndarray:
    """The base faces, drawn as squares of this size: (n, HEIGHT + SPARE, WIDTH + SPARE, 3)."""
    import torch

    from vae.data.synthetic.faces import draw

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several wait for each other, 4 s for 0.1, where a core is busy
    try:
        squares = (draw(torch.from_numpy(factors), size) * 255).byte().permute(0, 2, 3, 1).numpy()
    finally:
        torch.set_num_threads(threads)
    full, side = HEIGHT + SPARE, (HEIGHT - WIDTH) // 2
    return np.stack([_enlarge(square, full)[:, side : full - side] for square in squares])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.support.celeba_stand_in")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    parser.add_argument("--layout", choices=LAYOUTS, default="official")
    parser.add_argument("--num", type=int, default=NUM, help="images (default: all of CelebA's)")
    try:
        make(**vars(parser.parse_args()))
    except (FileExistsError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
