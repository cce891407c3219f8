"""`reconstruct`, `interpolate` and `traverse`: selected faces, the way, the sheet, file names."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import geometric_slerp
from skimage.metrics import peak_signal_noise_ratio

from vae.cli.main import main
from vae.generation import decode, figures
from vae.generation.decode import interpolate, reconstruct, traverse
from vae.generation.latent_paths import lerp, slerp
from vae.generation.photos import load_faces
from vae.runs.load import SavedRun, load_run
from vae.training.metrics import gradient_similarity, sharpness, ssim
from vae.utils.errors import UserError


@pytest.fixture
def outspoken(run):
    """The run with its latents scaled, one set to 0: short training leaves all near 0."""
    with torch.no_grad():
        run.model.encoder.mean.weight *= 30
        run.model.encoder.mean.weight[2] = 0
    return run


def faces_on(sheet, rows):
    """The pictures on a sheet of faces of 16 px, enlarged six times: (rows, columns, 16, 16, 3)."""
    with Image.open(sheet) as picture:
        pixels = np.asarray(picture)
    columns = (pixels.shape[1] - 2) // 98  # what is left, and above, are labels
    pixels = pixels[-98 * rows :, -98 * columns :]
    tiles = pixels.reshape(rows, 98, columns, 98, 3).swapaxes(1, 2)
    return tiles[:, :, 3:96:6, 3:96:6].astype(int)


def as_bytes(images):
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy().astype(int)


@torch.inference_mode()
def encoded(run, words, split="val"):
    """Faces, and their posterior."""
    faces, _ = load_faces(words, run, split)
    return faces, run.model.encode(faces)


@torch.inference_mode()
def decoded(run, latents):
    return run.model.decode(latents)


def numbers(count):
    return [str(number) for number in range(count)]


def test_each_face_and_the_mean_are_measured(run):
    made = reconstruct(run, ["3", "0", "7"], "test", folder=run.folder)
    faces, posterior = encoded(run, ["3", "0", "7"], "test")
    torch.testing.assert_close(made.images, decoded(run, posterior.mean))
    by_torch = {m.__name__: m(faces, made.images) for m in (ssim, gradient_similarity, sharpness)}
    for index, (face, image, metrics) in enumerate(
        zip(faces.numpy(), made.images.numpy(), made.metrics, strict=True)
    ):
        psnr = peak_signal_noise_ratio(face, image, data_range=1)
        expected = {"mse": np.square(face - image).mean(), "psnr": psnr}
        expected |= {name: values[index].item() for name, values in by_torch.items()}
        assert metrics == pytest.approx(expected, rel=1e-4)
    for name, value in made.mean.items():
        assert value == pytest.approx(np.mean([face[name] for face in made.metrics]))


@pytest.mark.parametrize("count", [1, 3, 8, 9, 20])
def test_the_sheet_shows_all_faces_up_to_its_limit(count, run, monkeypatch):
    monkeypatch.setattr(decode, "MAX_SHOWN", 16)
    made = reconstruct(run, numbers(count), folder=run.folder)
    assert len(made.images) == len(made.metrics) == count
    shown, rows = min(count, 16), 2 * -(-min(count, 16) // 8)
    sheet = faces_on(made.sheet, rows)
    for kind, images in enumerate((encoded(run, numbers(count))[0], made.images)):
        found = sheet[kind::2].reshape(-1, 16, 16, 3)
        assert np.array_equal(found[:shown], as_bytes(images[:shown]))
        assert (found[shown:] == 255).all()
    with Image.open(made.sheet) as picture:
        assert picture.height == rows * 98 + 2


def test_refinement_raises_the_psnr(run, vae_json, capsys):
    plain = vae_json("reconstruct", "run", "3", "0")
    found = vae_json("reconstruct", "run", "3", "0", "--refine", "40")
    assert {key: found[key] for key in ("faces", "mean")} == {
        key: plain[key] for key in ("faces", "mean")
    }
    refined = found["refined"]
    for face in ("3", "0"):
        assert refined["faces"][face]["psnr"] > found["faces"][face]["psnr"] + 0.02
    psnr = np.mean([face["psnr"] for face in refined["faces"].values()])
    assert refined["mean"]["psnr"] == pytest.approx(psnr)
    assert main(["reconstruct", "run", "3", "0", "--refine", "40"]) == 0
    (mean,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert f"psnr {plain['mean']['psnr']:5.2f} dB" in mean
    assert f"refined: psnr {psnr:5.2f} dB" in mean

    assert plain["files"] == ["run/figures/reconstruct.png"]
    assert found["files"] == ["run/figures/reconstruct_refine-40.png"]
    faces, posterior = encoded(run, ["3", "0"])
    sheet = faces_on(found["files"][0], 3)
    assert np.array_equal(sheet[0], as_bytes(faces))
    assert np.abs(sheet[1] - as_bytes(decoded(run, posterior.mean))).max() <= 1
    for face, shown, label in zip(faces, sheet[2], ("3", "0"), strict=True):
        error = np.square(face.permute(1, 2, 0).numpy() - shown / 255).mean()
        assert error == pytest.approx(refined["faces"][label]["mse"], rel=0.02)


def test_without_inputs_the_first_faces_of_the_split_are_used(run, finished):
    of_training = finished / "figures" / "reconstructions.png"
    before = of_training.read_bytes()
    made = reconstruct(run, split="test", folder=Path("run"))
    assert made.labels == [f"test_{number}" for number in range(16)]
    assert (finished / "figures" / "reconstruct.png").samefile(made.sheet)
    assert of_training.read_bytes() == before


@pytest.mark.parametrize("angle", [3e-4, 1e-3, 0.1, 1.5, 3.0, math.pi - 1e-2, math.pi - 1e-3])
def test_slerp_equals_scipys(angle):
    ends = torch.tensor([[1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]])
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1))).Q
    ends = ends @ turned
    directions = ends.double() / ends.double().norm(dim=1, keepdim=True)
    arc = geometric_slerp(*directions.numpy(), np.linspace(0, 1, 7))
    expected = arc * np.linspace(3, 2, 7)[:, None]
    np.testing.assert_allclose(slerp(3 * ends[0], 2 * ends[1], 7).numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("end", [[0.0, 0.0], [-2.0, -4.0], [2.0, 4.0], [1.0, 2.0]])
def test_slerp_of_parallel_latents_is_a_straight_line(end):
    start, end = torch.tensor([1.0, 2.0]), torch.tensor(end)
    line = torch.stack([start + (end - start) * part / 6 for part in range(7)])
    torch.testing.assert_close(slerp(start, end, 7), line)
    assert torch.equal(slerp(start, end, 7), lerp(start, end, 7))


@pytest.mark.parametrize("way", [lerp, slerp])
@pytest.mark.parametrize("end", [[-2.0, 1.0], [2.0, 4.0]])
def test_single_places_are_those_of_a_strip(way, end):
    start, end = torch.tensor([1.0, 2.0]), torch.tensor(end)
    places = torch.tensor([0.75, 0.25])
    torch.testing.assert_close(way(start, end, places), way(start, end, 5)[[3, 1]])


def test_strips_start_and_end_at_the_originals(outspoken):
    run = outspoken
    strip, *_ = interpolate(run, ["2", "5"], steps=3, folder=run.folder)
    faces, posterior = encoded(run, ["2", "5"])
    start, end = posterior.mean
    line, arc = faces_on(strip, 2)
    latents = torch.stack([start, (start + end) / 2, end])
    expected = as_bytes(torch.cat([faces[:1], decoded(run, latents), faces[1:]]))
    assert np.abs(line - expected).max() <= 1
    middle = as_bytes(decoded(run, slerp(start, end, 3)[1:2]))
    assert np.abs(middle - expected[2]).max() > 2
    expected[2] = middle
    assert np.abs(arc - expected).max() <= 1


@pytest.mark.parametrize(
    ("method", "kinds"),
    [("linear", ["linear"]), ("spherical", ["spherical"]), ("both", ["linear", "spherical"])],
)
def test_method_selects_linear_spherical_or_both(method, kinds, run):
    out = Path("out")
    files = interpolate(run, ["4", "0"], split="test", method=method, folder=out)
    stem = "interpolate_test_4_test_0"
    names = [f"{stem}.png", *(f"{stem}_{kind}.gif" for kind in kinds)]
    assert files == [out / "figures" / name for name in names]
    assert set((out / "figures").iterdir()) == set(files)
    with Image.open(files[0]) as strip:
        assert 98 * len(kinds) < strip.height < 98 * len(kinds) + 60
    with Image.open(files[1]) as animation:
        assert animation.n_frames == 2 * 24 - 2


def test_rows_are_decoded_moved_latents(outspoken, monkeypatch):
    run, seen = outspoken, {}

    def table(images, path, **words):
        seen.update(words, images=images)
        return path

    def animation(frames, path, **_):
        seen.update(frames=list(frames))
        return path

    monkeypatch.setattr(figures, "write_table", table)
    monkeypatch.setattr(figures, "write_animation", animation)
    monkeypatch.setattr(decode, "RANKING_IMAGES", 10)
    made = traverse(run, "2", count=9, steps=5, split="test", folder=run.folder)
    assert [file.name for file in made.files] == ["traverse_test_2.png", "traverse_test_2.gif"]
    _, posterior = encoded(run, numbers(10), "test")
    centre = posterior.mean.mean(0)
    spread = (posterior.mean.var(0) + posterior.logvar.exp().mean(0)).sqrt()
    kl = posterior.kl().mean(0)
    assert made.latents == kl.argsort(descending=True).tolist()  # all that there are
    assert made.kl == pytest.approx(kl[made.latents].tolist(), rel=1e-4)
    assert made.active == [latent != 2 for latent in made.latents]
    for row, latent in enumerate(made.latents):
        moved = posterior.mean[2].repeat(5, 1)
        moved[:, latent] = centre[latent] + spread[latent] * torch.tensor([-3, -1.5, 0, 1.5, 3])
        faces = decoded(run, moved)
        assert torch.allclose(seen["images"][row], faces, atol=1e-3)
        for frame, face in ((0, faces[0]), (-1, faces[-1])):
            assert torch.allclose(seen["frames"][frame][row], face, atol=1e-3)
    assert seen["columns"] == ["-3sd", "-1.5sd", "mean", "+1.5sd", "+3sd"]
    activity = ["", "", ", inactive", ""]
    assert seen["rows"] == [f"z{n}: {kl[n]:.1f} nats{activity[n]}" for n in made.latents]


def test_a_lone_image_has_no_spread(run, monkeypatch):
    images = run.data.images["val"][:1]
    monkeypatch.setattr(SavedRun, "data", SimpleNamespace(images={"val": images}))
    with pytest.raises(UserError, match="--split: got 'val', but it takes one with two images"):
        traverse(load_run("run"), folder=run.folder)
