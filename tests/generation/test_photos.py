"""Photographs and numbers as input faces: crops, names, messages."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.data_sets import save_noise
from tests.support.icc_profiles import grey_profile
from vae.data.images import load_square
from vae.evaluation import TrainedModel
from vae.generation.photos import file_stems, load_faces
from vae.runs.compose import compose
from vae.utils.errors import UserError


def trained(*settings):
    config = compose([*settings, "data.image_size=32", "model.channels=[4,8]"])
    return TrainedModel(None, config.model, config.data, config.loss, config.metrics)


CELEBA = trained("data=celeba")
UNCROPPED = trained("data=celeba", "data.crop=178")
DRAWN = trained()
OTHERS = trained("data=folder", "data.path=x")


def loaded(file, model=DRAWN, crop="auto"):
    faces, _ = load_faces([str(file)], model, crop=crop)
    assert faces.shape == (1, 3, 32, 32)
    return (faces[0].permute(1, 2, 0) * 255).round().byte().numpy()


@pytest.mark.parametrize(
    ("shape", "model", "crop", "square"),
    [
        ((178, 218), CELEBA, "auto", (15, 35, 148)),
        ((356, 436), CELEBA, "auto", (30, 70, 296)),
        ((178, 178), CELEBA, "auto", (0, 0, 178)),
        ((178, 218), DRAWN, "auto", (15, 35, 148)),
        ((178, 218), OTHERS, "auto", (0, 20, 178)),
        ((178, 218), CELEBA, "none", (0, 20, 178)),
        ((178, 218), UNCROPPED, "auto", (0, 20, 178)),
        ((300, 100), DRAWN, "auto", (100, 0, 100)),
        ((300, 100), DRAWN, "40", (130, 30, 40)),
        ((300, 100), DRAWN, "10,20,64", (10, 20, 64)),
        ((300, 100), DRAWN, "200,0,100", (200, 0, 100)),
    ],
)
def test_crops_of_celeba_and_other_photographs(shape, model, crop, square, tmp_path):
    file = save_noise(tmp_path / "a.png", *shape)
    left, top, side = square
    with Image.open(file) as image:
        face = image.crop((left, top, left + side, top + side))
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected = np.asarray(face.resize((32, 32), Image.Resampling.BILINEAR))
    assert (loaded(file, model, crop) == expected).all()
    assert (loaded(tmp_path / "turned.png", model, crop) == expected).all()
    if shape == (178, 218) and crop == "auto":  # as the training images
        assert (expected == load_square(file, 32, model.data_config.celeba_crop)).all()


@pytest.mark.parametrize(
    ("word", "crop", "says"),
    [
        ("a.png", "face", "--crop: got 'face', but it takes auto, none, PIXELS"),
        ("a.png", "1,2", "--crop: got '1,2'"),
        ("a.png", "-5", "--crop: got '-5'"),
        ("a.png", "1,2,3,4", "--crop: got '1,2,3,4'"),
        ("a.png", "0", "a square of"),
        ("a.png", "1201", "a square of 1 to 1200 pixels that overlaps a.png, 300x100"),
        ("a.png", "300,0,51", "that overlaps"),
        ("a.png", "0,-40,40", "that overlaps"),
        ("a.png", "9" * 5000, "--crop: got '9"),
        ("pipe.jpg", "auto", "pipe.jpg: cannot be read: not a regular file"),
        ("9" * 5000, "auto", "there is no such file"),
        ("page.jpg", "auto", "page.jpg: not an image, but an HTML"),
        ("folder", "auto", "folder: is a folder"),
        ("x" * 300, "auto", "there is no such file"),
        ("-1", "auto", "-1: there is no such file, and it is no number"),
    ],
)
def test_mistakes_are_named(word, crop, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_noise(Path("a.png"), 300, 100)
    Path("page.jpg").write_text("<html>")
    Path("folder").mkdir()
    os.mkfifo("pipe.jpg")
    with pytest.raises(UserError, match=says):
        loaded(word, crop=crop)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_squares_beyond_the_edges_repeat_them(suffix, tmp_path, caplog):
    file = save_noise(tmp_path / f"a.{suffix}", 92, 112)
    with Image.open(file) as image:
        wider = np.pad(np.asarray(image), ((24, 24), (34, 34), (0, 0)), mode="edge")
    assert wider.shape == (160, 160, 3)
    padded = Image.fromarray(wider)
    for crop, box in (("160", (0, 0, 160, 160)), ("-10,-24,100", (24, 0, 124, 100))):
        expected = padded.crop(box).resize((32, 32), Image.Resampling.BILINEAR)
        with caplog.at_level("INFO"):
            found = loaded(file, OTHERS, crop).astype(int)
        assert np.abs(found - np.asarray(expected)).max() <= 1
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "crop -34,-24,160 of 92x112 pixels",
        "crop -10,-24,100 of 92x112 pixels",
    ]


def test_photographs_are_converted_to_srgb(tmp_path):
    file = tmp_path / "a.jpg"
    light = Image.new("L", (40, 40), 60)
    light.save(file, icc_profile=grey_profile(1))
    assert np.abs(loaded(file).astype(int) - 133).max() <= 1  # 60/255 of the light


def test_models_of_drawn_faces_do_not_transfer_to_photographs(run, tmp_path, caplog):
    load_faces(["1"], run)
    assert not caplog.records
    files = [str(save_noise(tmp_path / f"{name}.png")) for name in "ab"]
    load_faces([*files, "1"], run)
    loaded(files[0], OTHERS)
    (said,) = caplog.messages
    assert "drawn faces and does not transfer to photographs" in said


def test_numbers_select_faces_of_the_split(run):
    images = run.data.images
    for split in ("train", "val", "test"):
        faces, labels = load_faces(["2", "0"], run, split)
        expected = torch.from_numpy(np.array(images[split][[2, 0]])).permute(0, 3, 1, 2) / 255
        assert torch.equal(faces, expected)
        assert labels == (["2", "0"] if split == "val" else [f"{split}_2", f"{split}_0"])
    with pytest.raises(UserError, match="face of val: got '40', but it takes a number below 40"):
        load_faces(["40"], run)


def test_a_file_takes_precedence_over_a_number_and_a_folder_does_not(run):
    Path("1").mkdir()
    save_noise(Path("3.png")).rename("3")
    (number, file, same), _ = load_faces(["1", "3", "01"], run)
    assert torch.equal(number, same)
    assert np.array_equal((file.permute(1, 2, 0) * 255).round(), load_square(Path("3"), 16))


def test_different_pictures_have_different_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [
        f"{tmp_path}/x/a/me.png",
        "y/b/me.png",
        "c/you.png",
        "c/me.png",
        "me.png",
        "y/b/me.png",
    ]
    for word in words:
        save_noise(tmp_path / word)
    shown = ["a/me.png", "b/me.png", "you.png", "c/me.png", "me.png", "b/me.png"]
    assert load_faces(words, DRAWN)[1] == shown
    (tmp_path / "b").symlink_to("y/b")
    assert load_faces(["b/me.png", "y/b/me.png"], DRAWN)[1] == ["b/me.png", "y/b/me.png"]
    save_noise(tmp_path / "a" / "me.png")
    assert load_faces(["a/me.png", "a/me.png"], DRAWN)[1] == ["me.png", "me.png"]


def test_file_names_are_safe():
    labels = ["me.jpg", "a.b.jpg", "3", "test_3", "été.png"]
    assert file_stems(labels) == ["me", "a.b", "3", "test_3", "été"]
    odd = ["a/me.jpg", "b/me.jpg", "a-me.jpg", "my photo (1).jpg", "my photo [1].jpg", "顔" * 80]
    odd += ["x" * 200 + ".jpg", "x" * 201 + ".jpg"]
    stems = file_stems(odd)
    assert len(set(stems)) == len(odd)
    assert not set("/ ()[]") & set("".join(stems))
    assert max(len(f".interpolate_{s}_{s}_spherical.gif.1234567.tmp".encode()) for s in stems) < 256
    # suffixes are kept where needed
    assert file_stems(["me.jpg", "you.png", "me.jpg"]) == ["me", "you", "me"]
    assert file_stems(["me.jpg", "me.png", "3"]) == ["me.jpg", "me.png", "3"]
    assert len(set(file_stems(["me.jpg", "me.png", "me.jpg.png"]))) == 3


def test_photographs_need_no_data(finished, vae_json):
    """Where the images of the run are gone, a photograph goes through all the same."""
    save_noise(finished.parent / "me.png")
    files = vae_json("interpolate", "run", "me.png", "me.png", "data.root=/dev/null/none")["files"]
    assert files[0] == "run/figures/interpolate_me_me.png"
