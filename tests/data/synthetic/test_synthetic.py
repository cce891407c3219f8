"""The source `synthetic`: its settings, its splits and its images."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae.data.base import SPLITS
from vae.data.synthetic import SyntheticConfig, SyntheticSource
from vae.data.synthetic.faces import PRESETS
from vae.utils.errors import UserError


def config(**changed) -> SyntheticConfig:
    values = {
        "name": "synthetic",
        "root": "data",
        "image_size": 16,
        "batch_size": 4,
        "num_images": 100,
        "flip": False,
        "num_workers": 1,
        "preset": "core",
        "seed": 0,
    }
    return SyntheticConfig(**(values | changed))


def source(**changed) -> SyntheticSource:
    return SyntheticSource(config(**changed))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("preset", "poor"), ("seed", -1), ("num_images", None), ("num_images", 5)),
        *(("image_size", 4), ("correlation", 0.95), ("correlated", [["smile", "hat"]])),
        *(("correlated", [["smile"]]), ("correlated", [["smile", "beard"], ["beard", "yaw"]])),
    ],
)
def test_wrong_settings_are_named(key, value):
    with pytest.raises(UserError, match=rf"data\.{key}: got {re.escape(repr(value))}"):
        config(**{key: value})


@pytest.mark.parametrize(("total", "train", "tenth"), [(10, 8, 1), (100, 80, 10), (109, 89, 10)])
def test_a_tenth_each_for_validation_and_test(total, train, tenth):
    assert source(num_images=total).sizes() == {"train": train, "val": tenth, "test": tenth}


def test_faces_equal_the_stored_picture():
    """Drawn when DRAWING_VERSION became 2. Other faces need another version and picture."""
    faces = [source(preset=preset, image_size=64).read("val", 0, 6) for preset in PRESETS]
    found = np.concatenate([np.concatenate(six, axis=1) for six in faces])
    with Image.open(Path(__file__).with_name("faces.png")) as picture:
        expected = np.asarray(picture)
    assert np.abs(found - expected.astype(int)).max() <= 2  # rounding depends on the processor


def test_an_image_does_not_depend_on_the_read_range(monkeypatch):
    """Even where the arithmetic rounds by the place in the batch."""

    def paint_by_place(factors: dict[str, torch.Tensor], size: int) -> torch.Tensor:
        place = torch.arange(len(factors["skin"])) / 255 + len(factors["skin"]) / 1000
        return (0.5 * (place + factors["skin"]))[:, None, None, None].expand(-1, 3, size, size)

    monkeypatch.setattr("vae.data.synthetic.faces.paint_faces", paint_by_place)
    whole = source().read("train", 0, 80)
    assert whole.shape == (80, 16, 16, 3)
    assert whole.dtype == np.uint8
    for start, stop in ((0, 5), (31, 33), (47, 48), (60, 80), (3, 3)):
        assert np.array_equal(whole[start:stop], source().read("train", start, stop))


def test_more_images_extend_the_sequence():
    few, many = source(num_images=30), source(num_images=70)
    for split in SPLITS:
        count = few.sizes()[split]
        assert np.array_equal(few.read(split, 0, count), many.read(split, 0, count))
        assert np.array_equal(
            few.labels(split)["factors"].values, many.labels(split)["factors"].values[:count]
        )


@pytest.mark.parametrize("preset", PRESETS)
def test_labels_belong_to_the_images(preset):
    drawn = source(preset=preset, num_images=1000, image_size=32)
    splits = [drawn.labels(split)["factors"].values for split in SPLITS]
    assert len(np.unique(np.concatenate(splits), axis=0)) == 1000  # no face twice

    labels = drawn.labels("val")
    factors, attributes = labels["factors"], labels["attributes"]
    assert factors.names == PRESETS[preset]
    assert factors.values.shape == (100, len(factors.names))
    assert factors.values.dtype == np.float32
    assert (factors.values.std(axis=0) > 0).all()
    assert attributes.values.shape == (100, len(attributes.names))
    assert attributes.values.dtype == np.int8

    brightness = factors.values[:, factors.names.index("bg_val")]
    corner = drawn.read("val", 0, 100)[:, :3, :3].mean(axis=(1, 2, 3))
    assert np.corrcoef(brightness, corner)[0, 1] > 0.8
    smile = factors.values[:, factors.names.index("smile")]
    smiling = attributes.values[:, attributes.names.index("Smiling")]
    assert np.array_equal(smiling == 1, smile > 0.25)


@pytest.mark.parametrize(
    "changed", [{"preset": "rich"}, {"seed": 1}, {"image_size": 24}, {"num_images": 50}]
)
def test_fingerprint_depends_on_the_pixel_settings(changed, monkeypatch):
    plain, other = source(), source(**changed)
    assert json.loads(json.dumps(plain.fingerprint())) == plain.fingerprint()
    same = source(batch_size=8, flip=True, num_workers=2, root="x")
    assert same.fingerprint() == plain.fingerprint() != other.fingerprint()
    if "preset" in changed or "seed" in changed:
        images = zip(plain.read("val", 0, 10), other.read("val", 0, 10), strict=True)
        assert all((one != another).any() for one, another in images)
    before = plain.fingerprint()
    monkeypatch.setattr("vae.data.synthetic.DRAWING_VERSION", -1)
    assert plain.fingerprint() != before


def test_only_training_faces_are_correlated():
    plain, drawn = source(num_images=2000), source(num_images=2000, correlation=0.8)
    for split in ("val", "test"):
        assert np.array_equal(drawn.read(split, 0, 9), plain.read(split, 0, 9))
        found = drawn.labels(split)["factors"].values
        assert np.array_equal(found, plain.labels(split)["factors"].values)
    smile, mouth_open = (PRESETS["core"].index(name) for name in ("smile", "mouth_open"))
    values = drawn.labels("train")["factors"].values
    assert np.corrcoef(values[:, smile], values[:, mouth_open])[0, 1] > 0.7
    assert (drawn.read("train", 0, 9) != plain.read("train", 0, 9)).any()
    other = source(num_images=2000, correlation=0.8, correlated=[["smile", "beard"]])
    prints = [one.fingerprint() for one in (plain, drawn, other)]
    assert prints[0] != prints[1] != prints[2]
    assert source(num_images=2000, correlated=[]).fingerprint() == prints[0]  # an older cache's


def test_a_pickled_source_is_equal():
    drawn = source()
    copied = pickle.loads(pickle.dumps(drawn))
    assert copied.fingerprint() == drawn.fingerprint()
    assert np.array_equal(copied.read("val", 0, 3), drawn.read("val", 0, 3))
