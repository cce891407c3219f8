"""Faces in photographs: found, and framed as the training images."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.generation.test_photos import CELEBA, DRAWN, OTHERS, UNCROPPED, loaded
from tests.support.data_sets import save_noise
from vae.evaluation import TrainedModel
from vae.generation.framing import Eyes, celeba_eyes, find_face, wanted_eyes
from vae.generation.photos import load_faces
from vae.runs.compose import compose

LEFT, TOP, SIDE = 250, 130, 192  # of a face in a snapshot of 640x480


@pytest.fixture(scope="module")
def drawn_faces():
    """24 drawn faces, (24, 128, 128, 3)."""
    return compose(["data.image_size=128"]).data.source().read("val", 0, 24)


@pytest.fixture(scope="module")
def easy_face(drawn_faces):
    """A drawn face whose eyes are found."""
    found = (find_face(face) for face in drawn_faces)
    return next(face for face, f in zip(drawn_faces, found, strict=True) if f and f.eyes_found)


def snapshot(face, file):
    """Write a picture of 640x480 with a face in it, on a smooth background."""
    with Image.open(save_noise(file, 640, 480)) as picture:
        picture.paste(Image.fromarray(face).resize((SIDE, SIDE)), (LEFT, TOP))
        picture.save(file)
    return file


def squares(caplog):
    """The squares that were logged as LEFT,TOP,SIDE."""
    crops = [m.partition("crop ")[2].partition(" of")[0] for m in caplog.messages if "crop " in m]
    return np.array([[int(number) for number in crop.split(",")] for crop in crops])


def test_a_picture_of_celebas_proportions_has_its_crop_unless_the_face_is_elsewhere(
    easy_face, tmp_path, caplog
):
    framed, elsewhere = np.full((2, 218, 178, 3), 128, np.uint8)
    framed[35:183, 15:163] = np.asarray(Image.fromarray(easy_face).resize((148, 148)))
    elsewhere[10:106, 70:166] = np.asarray(Image.fromarray(easy_face).resize((96, 96)))
    for name, picture in {"framed": framed, "elsewhere": elsewhere}.items():
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        with caplog.at_level("INFO"):
            loaded(tmp_path / f"{name}.png")
    first, second = squares(caplog)
    assert first.tolist() == [15, 35, 148]
    assert np.abs(second - (70, 10, 96)).max() < 0.25 * 96


def test_a_face_in_a_snapshot_is_framed_as_the_training_images(drawn_faces, tmp_path, caplog):
    files = [snapshot(face, tmp_path / f"{i}.png") for i, face in enumerate(drawn_faces)]
    with caplog.at_level("INFO"):
        faces, _ = load_faces(list(map(str, files)), DRAWN)
    found = np.array(["no face" not in m for m in caplog.messages if "crop " in m])
    assert found.sum() >= len(files) / 2
    errors = np.abs(squares(caplog) - (LEFT, TOP, SIDE)).max(axis=1) / SIDE
    assert np.median(errors[found]) < 0.15
    assert errors[found].max() < 0.35  # a head that is turned has its eyes beside the middle
    pixels = faces.permute(0, 2, 3, 1).numpy()
    small = [Image.fromarray(face).resize((32, 32), Image.Resampling.BOX) for face in drawn_faces]
    differences = np.abs(pixels - np.stack(small) / 255).mean(axis=(1, 2, 3))
    assert np.median(differences[found]) < 0.7 * np.median(differences[~found])
    assert (squares(caplog)[~found] == (80, 0, 480)).all()


def test_a_turned_photograph_has_the_same_square(easy_face, tmp_path, caplog):
    file = snapshot(easy_face, tmp_path / "a.png")
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "b.png", exif=exif)
    with caplog.at_level("INFO"):
        faces, _ = load_faces([str(file), str(tmp_path / "b.png")], DRAWN)
    first, second = squares(caplog)
    assert (first == second).all()
    assert (faces[0] == faces[1]).all()


def test_a_framed_face_stays_as_it_is(easy_face, tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(easy_face).save(file)
    whole = Image.fromarray(easy_face).resize((32, 32), Image.Resampling.BILINEAR)
    assert (loaded(file) == np.asarray(whole)).all()


@pytest.mark.parametrize(
    ("model", "numbers"),
    [
        (DRAWN, (36, 63, 51, 3.8)),
        (CELEBA, (36, 63, 51, 3.8)),
        (UNCROPPED, (39, 61, 51, 4.6)),
    ],
)
def test_the_wanted_framing_is_said_where_no_face_is_found(model, numbers, tmp_path, caplog):
    wants = "this model wants the eyes at {} and {} % of the width and {} % of the height: a side "
    with caplog.at_level("INFO"):
        loaded(save_noise(tmp_path / "a.png", 178, 218), model)
        loaded(save_noise(tmp_path / "me.png", 300, 200), model)
    celeba, snapshot = (message for message in caplog.messages if "crop " in message)
    assert "pixels, the square of CelebA's images: no face was found" in celeba
    assert "crop 50,0,200 of 300x200 pixels, its largest centre square: no face was" in snapshot
    assert (wants + "of {} times").format(*numbers) in snapshot


def test_without_opencv_it_says_how_to_find_faces(easy_face, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with caplog.at_level("INFO"):
        loaded(snapshot(easy_face, tmp_path / "a.png"))
    assert 'its largest centre square: pip install -e ".[app]" finds faces' in caplog.text
    assert squares(caplog).tolist() == [[80, 0, 480]]


def folder_of(faces, path):
    path.mkdir()
    for number, face in enumerate(faces):
        Image.fromarray(face).save(path / f"{number}.png")
    config = compose(
        ["data=folder", f"data.path={path}", f"data.root={path}-cache", "data.image_size=64"]
    )
    return TrainedModel(None, config.model, config.data, config.loss, config.metrics)


def test_the_framing_of_other_images_is_measured(tmp_path):
    drawn = compose(["data.image_size=128"]).data.source().read("train", 0, 60)
    closer = folder_of(drawn[:, 24:120, 16:112], tmp_path / "closer")
    found, usual = wanted_eyes(closer), celeba_eyes(148)
    expected = Eyes(*((128 * part - 16) / 96 for part in (usual.left, usual.right)), 0.0)
    assert (found.left + found.right) / 2 == pytest.approx(
        (expected.left + expected.right) / 2, abs=0.03
    )
    assert found.y == pytest.approx((128 * usual.y - 24) / 96, abs=0.04)
    # all over the images, or none
    shifts = np.random.default_rng(0).integers(-40, 40, (len(drawn), 2))
    moved = [np.roll(face, shift, (0, 1)) for face, shift in zip(drawn, shifts, strict=True)]
    assert wanted_eyes(folder_of(moved, tmp_path / "moved")) is None
    assert wanted_eyes(OTHERS) is None


def test_a_square_has_the_eyes_where_they_are_wanted():
    eyes, wanted = Eyes(300.0, 420.0, 250.0), Eyes(0.36, 0.63, 0.51)
    square = eyes.square(wanted)
    assert square[2] == round(120 / 0.27)
    assert eyes.within(square).max_difference(wanted) < 1 / square[2]
    tilted = replace(eyes, right=300.5)  # no square is of less than a pixel
    assert tilted.square(wanted)[2] >= 1
