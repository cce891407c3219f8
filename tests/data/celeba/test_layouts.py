"""Every layout of CelebA gives the same images, splits and labels."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from tests.support.celeba_shards import (
    SIZES,
    SPLITS,
    all_pixels,
    by_pil,
    known,
    names,
    pack,
    read_jpegs,
    rows,
    source,
    vae_pack,
)
from tests.support.celeba_stand_in import ATTRIBUTES, LAYOUTS, POINTS
from tests.support.train_command import ROOT

KINDS = {
    **{layout: {"attributes", "identities", "landmarks"} for layout in LAYOUTS},
    "kaggle": {"attributes", "landmarks"},
    "parquet": {"attributes", "identities"},
}
TYPES = {"attributes": np.int8, "identities": np.int32, "landmarks": np.int16}
COLUMNS = {"attributes": ATTRIBUTES, "landmarks": tuple(POINTS.split())}


@pytest.mark.parametrize("crop", [148, 178, 140, 128, None])
def test_pixels_equal_pillows(crop, celeba_made):
    jpegs = read_jpegs(celeba_made("official"))
    for size in (16, crop or 178):  # at the second nothing is resized
        faces = source(celeba_made("official"), crop=crop, image_size=size)
        expected = np.stack([by_pil(jpeg, crop, size) for jpeg in jpegs[rows("train")]])
        found = faces.read("train", 0, SIZES["train"])
        assert found.dtype == np.uint8
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_every_layout_has_the_same_pixels(celeba_made):
    first, *others = (all_pixels(source(celeba_made(layout), image_size=64)) for layout in LAYOUTS)

    assert len(np.unique(first, axis=0)) == 30  # no two alike
    assert all((other == first).all() for other in others)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_and_labels_equal_the_lists(layout, celeba_made):
    faces = source(celeba_made(layout))

    assert faces.sizes() == SIZES
    for split in SPLITS:
        labels = faces.labels(split)
        assert set(labels) == KINDS[layout]
        for kind, label in labels.items():
            assert label.values.dtype == TYPES[kind]
            np.testing.assert_array_equal(label.values, known()[kind][rows(split)])
            assert label.names == COLUMNS.get(kind, label.names)
            assert len(label.names) == label.values.shape[1]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packing_keeps_images_and_labels_together(layout, celeba_in):
    folder = celeba_in(layout)
    packed = pack(folder)

    jpegs = read_jpegs(celeba_in("official", folder.with_name("official")))
    for split in SPLITS:
        expected = np.stack([by_pil(jpeg) for jpeg in jpegs[rows(split)]])
        assert np.abs(packed.images[split].astype(int) - expected).max() <= 1
        for kind in TYPES:
            label = getattr(packed, kind)(split)
            assert (label is None) == (kind not in KINDS[layout])
            if label is not None:
                assert label.values.dtype == TYPES[kind]
                np.testing.assert_array_equal(label.values, known()[kind][rows(split)])
    assert packed.skipped() == []


@pytest.mark.parametrize("layout", ["official", "parquet"])
def test_the_command_packs_and_counts(layout, celeba_in, capsys):
    folder = celeba_in(layout)
    code, found, err = vae_pack(capsys, folder)

    assert (code, "error" in err) == (0, False)
    assert (found["images"], found["skipped"]) == (SIZES, 0)
    assert set(found["labels"]) == KINDS[layout]
    assert tuple(found["labels"]["attributes"]) == ATTRIBUTES
    assert found["cache"] == str(pack(folder).folder)
    assert vae_pack(capsys, folder, "--verify")[0] == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_range_reads_in_any_order(layout, celeba_made):
    faces = source(celeba_made(layout))
    in_order = {split: faces.read(split, 0, size) for split, size in SIZES.items()}

    ranges = [("train", 20, 24), ("val", 1, 3), ("train", 0, 5), ("train", 3, 21), ("test", 2, 3)]
    for split, start, stop in [*ranges, *reversed(ranges)]:
        assert (faces.read(split, start, stop) == in_order[split][start:stop]).all()
    for number in (23, 22, 22, 7, 6, 0):
        assert (faces.read("train", number, number + 1)[0] == in_order["train"][number]).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_num_images_needs_only_the_first_of_each_split(layout, celeba_in):
    folder = celeba_in(layout)
    faces = source(folder, num_images=15)
    sizes = {"train": 12, "val": 2, "test": 1}

    assert sum(faces.sizes().values()) == 15
    assert faces.sizes() == pytest.approx(sizes, abs=1)
    if layout in ("official", "drive", "kaggle"):
        for split in SPLITS:
            for name in names(split)[faces.sizes()[split] :]:
                next(folder.rglob(name)).write_bytes(b"not to be read")
    everything = source(celeba_in(layout, folder.with_name("whole")))
    packed = pack(folder, num_images=15)
    for split, count in faces.sizes().items():
        assert (packed.images[split] == everything.read(split, 0, count)).all()
        for kind, label in faces.labels(split).items():
            np.testing.assert_array_equal(label.values, known()[kind][rows(split, count)])


READ = """
import pickle, sys
jobs = pickle.load(sys.stdin.buffer)
pickle.dump([faces.read(*job) for faces, *job in jobs], sys.stdout.buffer)
"""


def test_another_process_reads_sources_in_use(celeba_made):
    sources = [source(celeba_made(layout)) for layout in LAYOUTS]
    expected = [faces.read("train", 5, 20) for faces in sources]
    for faces in sources:
        faces.check()
        faces.labels("train")
        assert len(pickle.dumps(faces)) < 20_000
    jobs = pickle.dumps([(faces, "train", 5, 20) for faces in sources])

    done = subprocess.run([sys.executable, "-c", READ], input=jobs, capture_output=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr.decode()
    assert (np.stack(pickle.loads(done.stdout)) == expected).all()
