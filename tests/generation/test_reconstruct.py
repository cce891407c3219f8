"""Reconstructions: selected faces, metrics, the sheet."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests.support.data_sets import save_noise
from vae.generation import decode as module
from vae.generation.decode import reconstruct
from vae.generation.photos import load_faces
from vae.runs.load import load_run


def faces_on(sheet, rows):
    """The pictures on a sheet of faces of 16 px, enlarged six times: (rows, columns, 16, 16, 3)."""
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    columns = (pixels.shape[1] - 2) // 98  # what is left, and above, are labels
    pixels = pixels[-98 * rows :, -98 * columns :]
    tiles = pixels.reshape(rows, 98, columns, 98, 3).swapaxes(1, 2)
    return tiles[:, :, 3:96:6, 3:96:6].astype(int)


def as_bytes(images):
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_each_face_and_the_mean_are_measured(finished):
    run = load_run("run")
    made = reconstruct(run, ["3", "0", "7"], "test", folder=finished.parent / "out")
    faces, _ = load_faces(["3", "0", "7"], run, "test")
    for face, image, metrics in zip(faces, made.images, made.metrics, strict=True):
        x, y = (t.permute(1, 2, 0).double().numpy() for t in (face, image))
        assert metrics["mse"] == pytest.approx(np.square(x - y).mean(), rel=1e-4)
        psnr = peak_signal_noise_ratio(x, y, data_range=1)
        assert metrics["psnr"] == pytest.approx(psnr, rel=1e-4)
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        _, ssim = structural_similarity(x, y, data_range=1, channel_axis=2, full=True, **settings)
        inner = ssim[5:-5, 5:-5].mean()  # skimage's mean leaves out the border, ours has none
        assert metrics["ssim"] == pytest.approx(inner, abs=1e-3)
    for name, value in made.mean.items():
        assert value == pytest.approx(np.mean([face[name] for face in made.metrics]))
    assert set(made.mean) == {"mse", "psnr", "ssim"}


@pytest.mark.parametrize("count", [1, 3, 8, 9, 17])
def test_the_sheet_shows_all_faces(count, finished):
    run = load_run("run")
    words = [str(number) for number in range(count)]
    made = reconstruct(run, words, folder=run.folder)
    rows = 2 * -(-count // 8)
    shown = faces_on(made.sheet, rows)
    originals, _ = load_faces(words, run)
    for kind, images in enumerate((originals, made.images)):
        found = shown[kind::2].reshape(-1, 16, 16, 3)
        assert np.array_equal(found[:count], as_bytes(images))
        assert (found[count:] == 255).all()


def test_a_full_sheet_does_not_limit_the_measurement(finished, monkeypatch):
    monkeypatch.setattr(module, "MAX_SHOWN", 16)
    made = reconstruct(load_run("run"), [str(number) for number in range(20)], folder=Path("run"))
    assert len(made.images) == len(made.metrics) == 20
    assert np.array_equal(
        faces_on(made.sheet, 4)[1::2].reshape(-1, 16, 16, 3), as_bytes(made.images[:16])
    )
    with Image.open(made.sheet) as sheet:
        assert sheet.height == 4 * 98 + 2


def test_without_inputs_the_first_faces_of_the_split_are_used(finished):
    made = reconstruct(load_run("run"), split="test", folder=Path("run"))
    assert made.labels == [f"test_{number}" for number in range(16)]
    assert (finished / "figures" / "reconstruct.png").samefile(made.sheet)


def test_many_faces_are_reconstructed_in_batches(finished, monkeypatch):
    run = load_run("run")
    words = [str(number) for number in range(10)]
    at_once = reconstruct(run, words, folder=run.folder).images
    monkeypatch.setattr(module, "EVALUATION_BATCH", 4)
    sizes = []
    run.model.encoder.register_forward_hook(lambda _, given, out: sizes.append(len(given[0])))
    assert torch.allclose(reconstruct(run, words, folder=run.folder).images, at_once, atol=1e-5)
    assert sizes == [4, 4, 2]


def test_training_images_and_new_images_are_distinguished(finished):
    standard = finished / "figures" / "reconstructions.png"
    before = standard.read_bytes()
    save_noise(finished.parent / "a" / "me.png", seed=1)
    save_noise(finished.parent / "b" / "me.png", seed=2)
    made = reconstruct(load_run("run"), ["a/me.png", "b/me.png"], folder=Path("run"))
    assert len(dict(zip(made.labels, made.metrics, strict=True))) == 2
    assert standard.read_bytes() == before
    assert made.sheet.name == "reconstruct.png"
