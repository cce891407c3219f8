"""Photographs and numbers as input faces: crops, names, messages."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.data_sets import save_noise
from vae.cli.main import main
from vae.data.images import load_square
from vae.evaluation import TrainedModel
from vae.generation.photos import file_stems, load_faces
from vae.runs.compose import compose
from vae.runs.load import load_run
from vae.utils.errors import UserError


def run_of(settings):
    config = compose([*settings, "data.image_size=32", "model.channels=[4,8]"])
    return TrainedModel(None, config.model, config.data, config.loss, config.metrics)


CELEBA = run_of(["data=celeba"])
UNCROPPED = run_of(["data=celeba", "data.crop=178"])
DRAWN = run_of([])
OTHERS = run_of(["data=folder", "data.path=x"])


def loaded(file, run=DRAWN, crop="auto"):
    faces, _ = load_faces([str(file)], run, crop=crop)
    assert faces.shape == (1, 3, 32, 32)
    return (faces[0].permute(1, 2, 0) * 255).round().byte().numpy()


def cut(file, left, top, side):
    with Image.open(file) as image:
        square = image.convert("RGB").crop((left, top, left + side, top + side))
    return np.asarray(square.resize((32, 32), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("shape", "run", "crop", "square"),
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
def test_crops_of_celeba_and_other_photographs(shape, run, crop, square, tmp_path):
    file = save_noise(tmp_path / "a.png", *shape)
    assert (loaded(file, run, crop) == cut(file, *square)).all()
    if shape == (178, 218) and crop == "auto":  # as the training images
        trained_on = run.data_config.celeba_crop
        assert (loaded(file, run) == load_square(file, 32, trained_on)).all()


def test_a_turned_photograph_is_upright(tmp_path):
    file = save_noise(tmp_path / "a.png", 60, 40)
    with Image.open(file) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    assert (loaded(tmp_path / "turned.png") == loaded(file)).all()


@pytest.mark.parametrize(
    ("crop", "says"),
    [
        ("face", "--crop: got 'face', but it takes auto, none, PIXELS"),
        ("1,2", "--crop: got '1,2'"),
        ("-5", "--crop: got '-5'"),
        ("0", "a square within"),
        ("101", "a square within"),
        ("250,0,51", "a square within"),
        ("0,60,41", "a square within"),
    ],
)
def test_invalid_crops_are_refused(crop, says, tmp_path):
    file = save_noise(tmp_path / "a.png", 300, 100)
    with pytest.raises(UserError) as refusal:
        loaded(file, crop=crop)
    assert says in str(refusal.value)


def test_files_that_are_no_images_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.jpg").write_text("<html>")
    (tmp_path / "folder").mkdir()
    for word, says in [
        ("page.jpg", "page.jpg: not an image, but an HTML"),
        ("gone.jpg", "gone.jpg: there is no such file"),
        ("folder", "folder: is a folder"),
        ("x" * 300, "there is no such file"),
        ("-1", "-1: there is no such file, and it is no number"),
    ]:
        with pytest.raises(UserError, match=says):
            loaded(word)


def test_numbers_select_faces_of_the_split(finished):
    run = load_run("run")
    images = run.data.images
    for split in ("train", "val", "test"):
        faces, labels = load_faces(["2", "0"], run, split)
        expected = torch.from_numpy(np.array(images[split][[2, 0]])).permute(0, 3, 1, 2) / 255
        assert torch.equal(faces, expected)
        assert labels == (["2", "0"] if split == "val" else [f"{split}_2", f"{split}_0"])
    with pytest.raises(UserError, match="face of val: got '40', but it takes a number below 40"):
        load_faces(["40"], run)


def test_folders_are_not_taken_for_faces(finished):
    """The number is meant, as a folder cannot be."""
    (finished.parent / "1").mkdir()
    run = load_run("run")
    faces, _ = load_faces(["1"], run)
    assert torch.equal(faces, load_faces(["3", "01"], run)[0][1:])
    save_noise(finished.parent / "3.png").rename("3")
    assert (
        load_faces(["3"], run)[0][0].permute(1, 2, 0) * 255
    ).round().byte().numpy().tolist() == (load_square(finished.parent / "3", 16).tolist())


def test_different_pictures_have_different_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["a/me.png", "b/me.png", "c/you.png", "a/me.png"]
    for number, word in enumerate(words[:3]):
        save_noise(tmp_path / word, seed=number)
    faces, labels = load_faces(words, DRAWN)
    assert labels == ["a/me.png", "b/me.png", "you.png", "a/me.png"]
    assert torch.equal(faces[0], faces[3])
    assert not torch.equal(faces[0], faces[1])
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


@pytest.mark.parametrize(
    ("run", "eyes", "height", "mouth", "times"),
    [
        (DRAWN, "36 and 63", 51, 79, 3.8),
        (CELEBA, "36 and 63", 51, 79, 3.8),
        (run_of(["data=celeba", "data.crop=none"]), "39 and 61", 51, 74, 4.6),
        (run_of(["data=celeba", "data.crop=100"]), "30 and 69", 52, 93, 2.6),
    ],
)
def test_other_proportions_log_the_framing(run, eyes, height, mouth, times, tmp_path, caplog):
    says = (
        f"the eyes at {eyes} % of the width and {height} % of the height, the mouth at {mouth} % "
        f"of the height: a side of {times} times"
    )
    snapshot = save_noise(tmp_path / "me.png", 300, 200)
    with caplog.at_level("INFO"):
        for file, cropped in [(save_noise(tmp_path / "a.png", 178, 218), "auto"), (snapshot, "50")]:
            loaded(file, run, cropped)
        loaded(snapshot, OTHERS)
        assert not caplog.records
        loaded(snapshot, run)
    (said,) = caplog.messages
    assert "me.png: its largest centre square" in said
    assert says in said
    with pytest.raises(UserError, match=says[:60]):
        loaded(snapshot, run, "face")


def test_photographs_need_no_data(finished, capsys):
    """Where the images of the run are gone, a photograph goes through all the same."""
    file = save_noise(finished.parent / "me.png")
    for command in ("reconstruct", "interpolate"):
        words = [str(file)] * (1 + (command == "interpolate"))
        assert main([command, "run", *words, "data.root=/dev/null/none"]) == 0, capsys.readouterr()
    assert (finished / "figures" / "interpolate_me_me.png").exists()
