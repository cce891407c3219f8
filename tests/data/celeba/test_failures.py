"""Missing, wrong and damaged files: errors name the file and the remedy."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_STORED, ZipFile

import pyarrow.parquet as pq
import pytest

from tests.support.celeba_shards import (
    ATTRIBUTE_LIST,
    IMAGES,
    PARTITION,
    ZIP,
    edit_lines,
    edit_shard,
    pack,
    refusal,
    rewrite_zip,
    set_column,
    source,
    vae_pack,
)
from tests.support.data_sets import save_noise
from tests.support.train_command import TINY, call_train
from vae.utils.errors import UserError

PAGE = b"\n <!DOCTYPE html><title>Google Drive - Quota exceeded</title>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 422\n"
JPEG = f"{IMAGES}/000013.jpg"
LIMIT = 1 << 20  # bytes of one image, in these tests
TRAIN_0, TRAIN_1 = (f"train-0000{number}-of-00002.parquet" for number in (0, 1))
VALID, TEST = (f"{split}-00000-of-00001.parquet" for split in ("valid", "test"))


def find(folder, name):
    (file,) = folder.rglob(name)
    return file


def write(name, content):
    return lambda folder: find(folder, name).write_bytes(content)


def remove(*names):
    return lambda folder: [find(folder, name).unlink() for name in names]


def cut(name, part):
    def cut_off(folder):
        os.truncate(find(folder, name), int(find(folder, name).stat().st_size * part))

    return cut_off


def overwrite(file, start, change, count):
    with file.open("r+b") as opened:
        opened.seek(start)
        new = change(opened.read(count))
        opened.seek(start)
        opened.write(new)


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def other_pictures(folder):
    empty(folder)
    for number in range(5):
        save_noise(folder / f"{number}.png")


def packed_as_archive(folder):
    shutil.make_archive(folder / "archive", "zip", folder, IMAGES)
    shutil.rmtree(folder / IMAGES)


def unlist(folder):
    edit_lines(folder / PARTITION, lambda lines: lines[:5] + lines[7:])


def index_and_cut(folder):
    """As pandas writes it, without the end of a line."""
    edit_lines(
        folder / "list_eval_partition.csv",
        lambda lines: [*(f"{number},{line}" for number, line in enumerate(lines)), "31"],
    )


def folder_as_image(folder):
    (folder / JPEG).unlink()
    (folder / JPEG).mkdir()


def member(content):
    """Another content of an archive's image; None leaves it out."""
    return lambda folder: rewrite_zip(
        folder / ZIP, lambda name, jpeg: content if name == JPEG else jpeg
    )


def flip(method, count):
    """Flip bits in bytes of an archive's image."""

    def flipped(folder):
        rewrite_zip(folder / ZIP, method=method)
        with ZipFile(folder / ZIP) as archive:
            info = archive.getinfo(JPEG)
        middle = info.header_offset + 60 + info.compress_size // 2
        overwrite(folder / ZIP, middle, lambda old: bytes(byte ^ 0x55 for byte in old), count)

    return flipped


def entry(place, new):
    """Change bytes of an image's entry in the archive's directory."""

    def changed(folder):
        start = (folder / ZIP).read_bytes().rindex(JPEG.encode()) - 46
        overwrite(folder / ZIP, start + place, lambda _: new, len(new))

    return changed


def bomb(declared):
    """An image that unpacks to twice the limit, with another size in the archive's directory."""

    def made(folder):
        member(bytes(2 * LIMIT))(folder)
        entry(24, declared.to_bytes(4, "little"))(folder)

    return made


def long_list(folder):
    """A directory of more than 128 MB, which would take 1 GB of memory."""
    content = (folder / ZIP).read_bytes()
    start = content.index(b"PK\1\2")
    sizes = (1 << 27) + 1, start
    end = content[-22:-10] + b"".join(size.to_bytes(4, "little") for size in sizes) + b"\0\0"
    (folder / ZIP).write_bytes(content[:-22])
    os.truncate(folder / ZIP, start + sizes[0])
    with (folder / ZIP).open("ab") as opened:
        opened.write(end)


def many_rows(folder):
    """Two million rows in a few bytes."""
    import pyarrow as pa

    nulls = {"image": pa.nulls(2 * 10**6, pa.binary())}
    pq.write_table(pa.table(nulls), find(folder, TRAIN_1), 10**9, compression="zstd")


SPECIAL = (os.mkfifo, lambda file: file.symlink_to("/dev/zero"))


def special(name, make=os.mkfifo):
    """A pipe, or a device, in place of a file."""

    def changed(folder):
        file = find(folder, name)
        file.unlink()
        make(file)

    return changed


def add(name):
    def added(folder):
        with ZipFile(folder / ZIP, "a") as archive:
            archive.writestr(name, b"evil")

    return added


def edit(name, change):
    return lambda folder: edit_shard(find(folder, name), change)


def rename_all(folder):
    for number, file in enumerate(sorted(folder.rglob("*.parquet"))):
        file.rename(folder / f"part-{number}.parquet")


def copy(old, new):
    return lambda folder: shutil.copy(find(folder, old), find(folder, old).with_name(new))


def spoil_labels(folder):
    """Overwrite the columns, but the images, with zeros."""
    group = pq.read_metadata(find(folder, VALID)).row_group(0)
    for number in range(2, group.num_columns):  # after image.bytes, image.path
        column = group.column(number)
        start = column.dictionary_page_offset or column.data_page_offset
        overwrite(
            find(folder, VALID), start, lambda old: bytes(len(old)), column.total_compressed_size
        )


def row(content):
    """Another content of the image in row 11 of a shard."""

    def change(cells):
        cells[11]["bytes"] = content(cells[11]["bytes"])
        return cells

    return edit(TRAIN_1, set_column("image", change))


WAYS_TO_GET = ".*mmlab.ie.cuhk.edu.hk.*jessicali9530/celeba-dataset.*flwrlabs/celeba"
QUOTA = f": is an HTML page .*quota.*Remove it.*{WAYS_TO_GET}"
HINT = r".*data\.on_corrupt=skip"
DAMAGED = f"{ZIP}: 000013.jpg: the archive is damaged here{HINT}"
TRUNCATED = f"{ZIP}: is no zip archive, or is truncated: after [0-9,]+ bytes.*Get {ZIP} again"
OUTSIDE = f"{ZIP}: its member .* points outside .*nothing of it was read.*Get {ZIP} again"
FAILURES = [  # a layout, what happens to its folder, and what is said
    ("official", shutil.rmtree, f"there is no .*data.path=FOLDER{WAYS_TO_GET}.*data=synthetic"),
    ("official", empty, f"lacks the images .* and the partition .*0 files{WAYS_TO_GET}"),
    ("official", other_pictures, r"lacks the partition .*5 \.png.*data=folder data.path=FOLDER"),
    ("official", remove(PARTITION), rf"lacks the partition .list_eval.*30 \.jpg{WAYS_TO_GET}"),
    ("official", lambda f: (f / IMAGES).rename(f / "img_celeba"), r"lacks the images .*4 \.txt"),
    ("official", packed_as_archive, r"lacks the images .*Unpack archive\.zip"),
    (
        "official",
        remove(*(f"{number:06d}.jpg" for number in range(2, 15))),
        rf"lacks 13 of the 30 .*000002.jpg, .*06.jpg, \.\.\.\).*Unpack or fetch{HINT}",
    ),
    ("official", write(PARTITION, PAGE), f"{PARTITION}{QUOTA}"),
    ("official", write(ATTRIBUTE_LIST, POINTER), f"{ATTRIBUTE_LIST}: .*Git LFS.*git lfs pull"),
    ("official", cut(JPEG, 0.3), f"000013.jpg: .*JPEG.* truncated.*Fix or remove it{HINT}"),
    (
        "official",
        lambda f: overwrite(f / JPEG, 4000, lambda old: bytes(len(old)), 512),
        f"000013.jpg: the JPEG image is damaged.*Fix or remove{HINT}",
    ),
    ("official", write(JPEG, PAGE), f"000013.jpg: .*an HTML or XML page.*{HINT}"),
    ("official", folder_as_image, f"000013.jpg: cannot be read: not a regular file.*{HINT}"),
    ("kaggle", write("list_attr_celeba.csv", PAGE), f"list_attr_celeba.csv{QUOTA}"),
    ("kaggle", index_and_cut, r"list_eval_partition\.csv: line 32 .'31'. is not a file name"),
    ("zip", write(ZIP, PAGE), f"{ZIP}{QUOTA}"),
    ("zip", write(ZIP, b""), f"{ZIP}: the file is empty.*Get {ZIP} again"),
    ("zip", write(ZIP, b"Rar!\x1a\7\0" * 99), TRUNCATED),
    *(("zip", cut(ZIP, part), TRUNCATED) for part in (0.01, 0.6, 0.999)),
    (
        "official",
        lambda f: edit_lines(f / PARTITION, lambda lines: [*lines, "\0.jpg 0"]),
        f"lacks 1 of the 31 images{HINT}",
    ),
    ("zip", unlist, f"2 of the 30 .*06.jpg, 000007.jpg.*Get {PARTITION} again{HINT}"),
    ("zip", member(None), f"{ZIP} lacks 1 of the 30 images .*000013.jpg{HINT}"),
    (
        "zip",
        member(bytes(LIMIT + 1)),
        f"{ZIP}: 000013.jpg: is too large: 1 MB of at most{HINT}",
    ),
    *(("zip", flip(how, n), DAMAGED) for how in (ZIP_STORED, ZIP_DEFLATED) for n in (1, 300)),
    ("zip", entry(16, b"\0\0\0\0"), DAMAGED),  # its checksum
    ("zip", entry(20, b"\xff\xff\xff\x7f"), f"is too large: 2,147 MB{HINT}"),  # its packed size
    ("zip", entry(20, b"\0\0\0\0"), DAMAGED),
    *(("zip", bomb(declared), DAMAGED) for declared in (0, 10, LIMIT)),
    ("zip", long_list, f"{ZIP}: the archive is damaged .its list of members would have 1"),
    *(("zip", special(ZIP, make), f"{ZIP}: cannot be read: not a regular") for make in SPECIAL),
    ("official", special(PARTITION), f"{PARTITION}: cannot be read: not a regular file"),
    ("official", special(ATTRIBUTE_LIST), f"{ATTRIBUTE_LIST}: cannot be read: not a regular file"),
    ("parquet", special(VALID), f"{VALID}: cannot be read: not a regular file"),
    ("zip", entry(42, b"\xff\xff\xff\x7f"), DAMAGED),  # its place
    ("zip", entry(0, b"XXXX"), f"{ZIP}: the archive is damaged"),  # its signature
    ("zip", entry(6, b"\xff\0"), f"{ZIP}: the archive is damaged"),  # the version that reads it
    ("zip", entry(8, b"\1"), f"{ZIP}: its member .* is encrypted"),
    ("zip", add("../evil.jpg"), OUTSIDE),
    ("zip", add("/evil.jpg"), OUTSIDE),
    ("zip", add("C:\\evil.jpg"), OUTSIDE),
    ("zip", add("img\\..\\..\\evil.jpg"), OUTSIDE),
    ("zip", add("img_celeba/000001.jpg"), "'img_celeba/000001.jpg' is in two of its folders"),
    (
        "zip",
        lambda f: rewrite_zip(f / ZIP, method=ZIP_BZIP2),
        f"{ZIP}: its member .* is packed by a method .*unpack it",
    ),
    ("parquet", remove(TRAIN_0), "has 1 of the 2 .* of train; missing: 00000-of-00002"),
    ("parquet", remove(VALID), r"no parquet files of val\..* valid-\*"),
    (
        "parquet",
        copy(TEST, "train-00000-of-00001.parquet"),
        "one parquet file of train twice, or of another set .train-00000-of-00001",
    ),
    (  # as a browser saves a second download
        "parquet",
        copy(TRAIN_1, "train-00001-of-00002 (1).parquet"),
        r"one parquet file of train twice.*train-00001-of-00002 \(1\)",
    ),
    ("parquet", rename_all, r"4 files: 4 \.parquet.* named train-\*"),
    ("parquet", cut(TRAIN_1, 0.9), f"{TRAIN_1}: .*truncated.*Get {TRAIN_1} again"),
    ("parquet", write(VALID, b""), f"{VALID}: .*empty.*Get {VALID} again"),
    ("parquet", write(VALID, POINTER), f"{VALID}: .*Git LFS.*`git lfs pull`"),
    ("parquet", write(VALID, PAGE), f"{VALID}{QUOTA}"),
    (
        "parquet",
        edit(TRAIN_1, lambda table: table.drop_columns(["image"])),
        f"{TRAIN_1}: has no column `image`.*flwrlabs",
    ),
    ("parquet", edit(VALID, set_column("image", lambda _: ["a.jpg"] * 3)), "no column `image`"),
    ("parquet", edit(TRAIN_1, lambda table: table.drop_columns(["Male"])), f"{TRAIN_1}: .*Male"),
    ("parquet", edit(VALID, set_column("Male", lambda _: [1, None, 0])), f"{VALID}: .*Male is emp"),
    ("parquet", edit(VALID, set_column("Male", lambda _: ["yes"] * 3)), f"{VALID}: .* 'yes'"),
    ("parquet", many_rows, f"{TRAIN_1}: has 2,000,012 rows"),
    (
        "parquet",
        row(lambda _: bytes(LIMIT + 1)),
        rf"{TRAIN_1}: .*(larger than|too large).*{HINT}",
    ),
    ("parquet", edit(TEST, lambda table: table.slice(0, 0)), f"{TEST}: holds no images of test"),
    ("parquet", spoil_labels, f"{VALID}: is damaged"),
    ("parquet", row(lambda jpeg: jpeg[:2000]), f"{TRAIN_1}: row 11: .*truncated.*{HINT}"),
    ("parquet", row(lambda _: None), f"{TRAIN_1}: row 11 holds no image.*{HINT}"),
    (
        "parquet",
        lambda f: overwrite(find(f, TRAIN_1), 100, lambda old: bytes(len(old)), 19_900),
        f"{TRAIN_1}: is damaged.*Get {TRAIN_1} again{HINT}",
    ),
]


@pytest.mark.parametrize(("layout", "damage", "says"), FAILURES)
def test_failures(layout, damage, says, celeba_in, monkeypatch):
    for module in ("stores", "parquet"):
        monkeypatch.setattr(f"vae.data.celeba.{module}.MEMBER_BYTES", LIMIT)
    folder = celeba_in(layout)
    damage(folder)

    text = refusal(folder)
    assert str(folder) in text
    assert re.search(says, text, re.DOTALL), text
    assert not [*folder.parent.rglob("*evil.jpg"), *Path("/").glob("*evil.jpg")]
    if re.search(HINT, text):
        assert len(pack(folder, on_corrupt="skip").images["train"]) > 10
    else:
        assert refusal(folder, on_corrupt="skip") == text


def test_missing_pyarrow_is_reported(celeba_in, monkeypatch):
    folder = celeba_in("parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    assert "pip install pyarrow" in refusal(folder)


@pytest.mark.parametrize("name", [".", IMAGES, PARTITION, ATTRIBUTE_LIST, JPEG])
def test_unreadable_files_are_reported(name, celeba, as_nobody, monkeypatch):
    source(celeba).read("val", 0, 1)  # imports all that is needed
    monkeypatch.chdir(celeba.parent)
    (celeba / name).chmod(0)
    try:
        with as_nobody(), pytest.raises(UserError) as caught:
            source(Path("celeba")).read("train", 0, 24)
    finally:
        (celeba / name).chmod(0o700)
    assert re.search(
        f"{Path('celeba', name)}:? cannot be read: Permission denied", str(caught.value)
    )


def test_vae_pack_ends_with_the_message_alone(celeba, capsys):
    cut(JPEG, 0.3)(celeba)
    code, found, err = vae_pack(capsys, celeba)

    assert (code, found) == (1, {})
    assert err[err.index("error: ") :] == f"error: {refusal(celeba)}\n"
    assert "Traceback" not in err


def test_a_run_ends_with_the_message_alone(celeba, tmp_path, monkeypatch, capsys):
    cut(JPEG, 0.3)(celeba)
    keys = ("experiment", "data.num_images")
    base = [setting for setting in TINY if not setting.startswith(keys)]
    arguments = [*base, "data=celeba", "data.batch_size=2"]
    code, _, err = call_train(arguments, tmp_path, monkeypatch, capsys)

    assert code == 1
    assert "Traceback" not in err
    assert re.search(f"000013.jpg: .*truncated{HINT}", err)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"on_corrupt": "maybe"}, "data.on_corrupt: got 'maybe', but it takes error or skip"),
        ({"crop": 3}, "data.crop: got 3"),
    ],
)
def test_settings(setting, says, celeba):
    assert says in refusal(celeba, **setting)
