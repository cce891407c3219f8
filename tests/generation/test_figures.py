"""Figures: the right pixels in the right place."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from vae.generation import figures
from vae.generation.figures import draw_figures
from vae.generation.labels import label_columns
from vae.models import ConvConfig, build_model
from vae.training.metrics import Evaluation

PLACES = ("-3", "-2.1", "-1.3", "-0.43", "+0.43", "+1.3", "+2.1", "+3")


def frames_of(path):
    with Image.open(path) as animation:
        frames = ImageSequence.Iterator(animation)
        return [np.asarray(frame.convert("RGB")).astype(float) for frame in frames]


def test_reconstructions_are_below_their_originals(tmp_path):
    originals = torch.linspace(0, 0.4, 19).view(-1, 1, 1, 1).expand(-1, 3, 96, 96)
    path = figures.write_reconstructions(originals, originals + 0.5, tmp_path / "r.png")
    picture = np.asarray(Image.open(path))
    margin = picture.shape[1] - 8 * 98 - 2
    assert margin > 0
    centres = picture[50::98, margin + 50 :: 98, 0] / 255
    first, second = originals[:16, 0, 0, 0].view(2, 8).numpy()  # full rows alone
    np.testing.assert_allclose(centres, [first, first + 0.5, second, second + 0.5], atol=0.003)
    assert [p.name for p in tmp_path.iterdir()] == ["r.png"]


@pytest.mark.parametrize(("size", "scale"), [(96, 1), (32, 3), (256, 1)])
def test_a_grid_is_torchvisions_of_enlarged_images(size, scale):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(7, 3, size, size, generator=generator)  # the last row is not full
    images = 3 * images - 1  # beyond [0, 1]
    shown = torch.cat([images, torch.ones(1, 3, size, size)]).clamp(0, 1)
    shown = shown.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    expected = (make_grid(shown, nrow=4, pad_value=1.0) * 255).round().byte().permute(1, 2, 0)
    assert np.array_equal(np.asarray(figures.grid(images, 4)), expected)


@pytest.mark.parametrize(("faces", "latents"), [(1, 2), (2, 1), (3, 3), (16, 20)])
def test_the_standard_figures_at_any_size(tmp_path, faces, latents, monkeypatch):
    seen = Mock(wraps=figures.write_table)
    monkeypatch.setattr(figures, "write_table", seen)
    images = np.random.default_rng(0).integers(256, size=(faces, 16, 16, 3), dtype=np.uint8)
    kl = torch.arange(latents, dtype=torch.float64)
    model = build_model(ConvConfig(name="conv", latent_dim=latents, channels=[4]), 16).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    evaluation = Evaluation({}, kl, torch.ones_like(kl), torch.full_like(kl, 2))
    paths = draw_figures(model, images, evaluation, tmp_path)
    names = ["reconstructions", "samples", "interpolation", "traversal"]
    assert paths == {f"figures/{name}": tmp_path / f"{name}.png" for name in names}
    assert all(Image.open(path).width > 100 for path in paths.values())
    most_active = list(range(latents))[:-9:-1]
    between, moved = seen.call_args_list
    assert moved.kwargs["rows"] == [f"z{latent}: {latent}.0 nats" for latent in most_active]
    assert moved.kwargs["columns"] == [f"{place}sd" for place in PLACES]
    assert between.kwargs["columns"][::9] == ["original"] * 2
    shown = between.args[0][:, ::9].flatten(0, 1)  # the first and the last column
    originals = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    assert torch.equal(shown, originals.repeat(2, 1, 1, 1)[: len(shown)])
    assert model.training
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("count", [1, 8])
def test_samples_have_a_caption(count, tmp_path):
    images = torch.full((count, 3, 96, 96), 0.5)
    picture = np.asarray(Image.open(figures.write_samples(images, tmp_path / "s.png")))
    faces = np.asarray(figures.grid(images, count))
    above, below = np.split(picture, [len(picture) - len(faces)])
    assert np.array_equal(below[:, : faces.shape[1]], faces)
    assert above.min() < 128 < 255 == above[:, -6:].min()  # all of it is there


def test_animations_loop_forward_and_backward(tmp_path):
    colours = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    start, end = interpolate(colours, 32, mode="bilinear", align_corners=True)
    frames = torch.stack([torch.lerp(start, end, place)[None] for place in (0.0, 0.3, 0.8, 1.0)])
    path = figures.write_animation(iter(frames), tmp_path / "a.gif")
    found = frames_of(path)
    for number, shown in zip((0, 1, 2, 3, 2, 1), found, strict=True):
        expected = np.asarray(figures.grid(frames[number], 1)).astype(float)
        assert np.square(shown - expected).mean() ** 0.5 < 6.5  # of 255
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0
        assert 6 * animation.info["duration"] == pytest.approx(4000, abs=60)  # rounded to 10 ms
    assert [p.name for p in tmp_path.iterdir()] == ["a.gif"]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (8, 4), (13, 6)])
def test_animation_frames_have_labelled_rows(count, columns, tmp_path):
    values = torch.linspace(0.1, 0.9, count)
    frame = values.view(-1, 1, 1, 1).expand(count, 3, 96, 96)
    labels = [f"z{number}" for number in range(count)]
    path = figures.write_animation([frame, 1 - frame], tmp_path / "a.gif", labels=labels)
    sheet = frames_of(path)[0]
    rows = -(-count // columns)
    height = sheet.shape[0] // rows
    margin = height - 100
    assert sheet.shape == (rows * height, 98 * columns + 2, 3)
    assert margin > 10
    for number in range(rows * columns):
        top, left = number // columns * height, number % columns * 98
        face = sheet[top + margin + 2 : top + height - 2, left + 2 : left + 98]
        label = sheet[top : top + margin, left + 2 : left + 98]
        expected = values[number].item() * 255 if number < count else 255
        np.testing.assert_allclose(face, expected, atol=1)
        assert (label.min() < 128) == (number < count)


def test_long_labels_wrap_and_stay_above_their_column(monkeypatch):
    picture = figures.grid(torch.full((3, 3, 96, 96), 0.5), 3)
    for label in ("x" * 90, "long " * 30, "Mouth_Slightly_Open_And_More +2"):
        labelled = np.asarray(label_columns(picture, ["", label, ""]))
        margin = labelled.shape[0] - picture.height
        assert 20 < margin < 100
        labels = labelled[:margin]
        assert labels[:, 100:196].min() < 128
        assert labels[:, :98].min() == labels[:, 198:].min() == 255

    draw = Mock()
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.multiline_text", draw)
    label_columns(picture, ["Mouth_Slightly_Open +2", "x" * 30, ""])
    name, long, _ = (call.args[1] for call in draw.mock_calls)
    assert name == "Mouth_\nSlightly_Open\n+2"
    assert long.replace("\n", "") == "x" * 30
