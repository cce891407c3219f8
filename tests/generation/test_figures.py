"""Figures: the right pixels in the right place."""

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image, ImageSequence
from scipy.stats import kstest
from torch import nn
from torch.nn.functional import interpolate
from torchvision.utils import make_grid

from vae.generation import figures, latent_figure
from vae.generation.figures import draw_figures
from vae.generation.labels import label_columns
from vae.generation.latent_figure import encode_evenly
from vae.models import VAE, ConvConfig, Posterior, build_model
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
    paths = draw_figures(model, images, images, evaluation, tmp_path).files
    names = ["reconstructions", "samples", "latents", "interpolation", "traversal"]
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
    path = figures.write_samples({figures.PRIOR_CAPTION: images}, tmp_path / "s.png")
    picture = np.asarray(Image.open(path))
    faces = np.asarray(figures.grid(images, count))
    above, below = np.split(picture, [len(picture) - len(faces)])
    assert np.array_equal(below[:, : faces.shape[1]], faces)
    assert above.min() < 128 < 255 == above[:, -6:].min()  # all of it is there


class Coder(nn.Module):
    """An encoder of given moments per image, whose first pixel is its number; a known decoder."""

    def __init__(self, mean, logvar):
        super().__init__()
        self.moments = nn.Parameter(torch.stack([mean, logvar]), requires_grad=False)

    def forward(self, images):
        return self.moments[:, (255 * images[:, 0, 0, 0]).round().long()].unbind()


class Painter(nn.Module):
    """Decode to logits that are the same in all pixels of a channel: 3 linear functions of z."""

    def forward(self, latents):
        places = torch.arange(latents.shape[1])
        weights = torch.stack([torch.cos(places), torch.sin(places), 0.1 * torch.cos(3 * places)])
        return (latents @ weights.T)[:, :, None, None].expand(-1, -1, 8, 8)


def known_model(count, latent_dim, scale=1.0, logvar=-1.0):
    """A model with a known posterior per image, the images, and an evaluation of these."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(latent_dim, latent_dim, generator=generator)
    mean = scale * (torch.randn(count, latent_dim, generator=generator) @ root + 2)
    logvar = logvar + torch.randn(count, latent_dim, generator=generator)
    images = np.zeros((count, 8, 8, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    posterior = Posterior(mean, logvar)
    kl = posterior.kl().double().mean(0)
    spread = mean.double().std(0, correction=0)
    evaluation = Evaluation({}, kl, mean.double().mean(0), spread)
    return VAE(Coder(mean, logvar), Painter(), latent_dim), images, evaluation, posterior


def blocks_of(path, *rows):
    """Colours of the faces of a sheet, block by block: (faces, 3) each, without the captions."""
    picture = np.asarray(Image.open(path))
    top, found = 0, []
    for count in rows:
        tile = 98
        caption = (picture.shape[0] - 2 * len(rows) - tile * sum(rows)) // len(rows)
        assert picture[top : top + caption].min() < 128  # there is one
        centres = picture[top + caption + 50 :: tile, 50::tile][:count]
        found.append(centres.reshape(-1, 3))
        top += caption + count * tile + 2
    return found


def test_samples_are_of_the_fitted_gaussian_and_of_the_prior(tmp_path):
    model, images, evaluation, posterior = known_model(200, 6)
    paths = draw_figures(model, images[:3], images, evaluation, tmp_path / "a").files
    again = draw_figures(model, images[:3], images, evaluation, tmp_path / "b").files
    assert all(path.read_bytes() == again[key].read_bytes() for key, path in paths.items())
    aggregate, _ = encode_evenly(model, images)
    fitted = figures.gaussian_latents(32, aggregate)
    standard = figures.prior_latents(16, fitted)
    for block, latents in zip(
        blocks_of(paths["figures/samples"], 4, 2), (fitted, standard), strict=True
    ):
        expected = 255 * model.decode(latents)[:, :, 0, 0]
        np.testing.assert_allclose(block, expected, atol=1)

    many = figures.gaussian_latents(200_000, aggregate).double().numpy()
    means, variances = (t.double().numpy() for t in (posterior.mean, posterior.logvar.exp()))
    covariance = np.cov(means, rowvar=False) + np.diag(variances.mean(0))
    scale = covariance.diagonal() ** 0.5
    np.testing.assert_allclose((many.mean(0) - means.mean(0)) / scale, 0, atol=0.01)
    found = np.cov(many, rowvar=False) / np.outer(scale, scale)
    np.testing.assert_allclose(found, covariance / np.outer(scale, scale), atol=0.015)


@pytest.mark.parametrize("count", [3, 130, 256])
def test_encoded_images_are_spread_evenly(count, monkeypatch):
    monkeypatch.setattr(latent_figure, "IMAGES", 130)  # more than a batch
    model, images, _, posterior = known_model(count, 3, logvar=-40)  # samples are the means
    aggregate, samples = encode_evenly(model, images, [2, 0])
    mean = posterior.mean.double().numpy()
    rows = np.abs(mean[:, 2] - samples[:, :1]).argmin(1)
    np.testing.assert_allclose(samples, mean[rows][:, [2, 0]], atol=1e-4)
    np.testing.assert_allclose(aggregate.mean, mean[rows].mean(0), rtol=1e-6)
    gaps = np.diff([-1, *rows, count])
    assert len(rows) == min(count, 130)
    assert 1 <= gaps.min() <= gaps.max() <= -(-count // 130)


def test_the_latents_figure_shows_samples_of_the_posteriors(tmp_path, monkeypatch):
    stairs, titles = Mock(wraps=Axes.stairs), Mock(wraps=Axes.set_title)
    monkeypatch.setattr(Axes, "stairs", lambda *args, **options: stairs(*args, **options))
    monkeypatch.setattr(Axes, "set_title", lambda *args, **options: titles(*args, **options))
    model, images, evaluation, posterior = known_model(256, 11)
    evaluation.std_of_means[[4, 7]] = 0.05  # as if they were not active
    draw_figures(model, images[:3], images, evaluation, tmp_path)
    kl = evaluation.kl_per_latent.numpy()
    order = sorted(range(11), key=lambda latent: -kl[latent])
    named = [f"z{latent}: {kl[latent]:.1f} nats" for latent in (*order[:4], *order[-4:])]
    last = f"9 of 11 latents active, {kl.sum():.1f} nats in all"
    assert [call.args[1] for call in titles.call_args_list] == [*named, last]

    *histograms, (active, _), (inactive, edges) = (call.args[1:] for call in stairs.mock_calls)
    np.testing.assert_array_equal(active + inactive, kl[order])
    assert [order[place] for place in np.flatnonzero(inactive)] == [i for i in order if i in (4, 7)]
    np.testing.assert_array_equal(edges, np.arange(12) + 0.5)
    _, samples = encode_evenly(model, images, range(11))
    for latent, (density, edges) in zip([*order[:4], *order[-4:]], histograms, strict=True):
        values = samples[:, latent].astype(float)
        expected, _ = np.histogram(values, edges, density=True)
        np.testing.assert_allclose(density, expected)
        assert edges[0] <= min(-4, values.min())
        assert edges[-1] >= max(4, values.max())
    noise = (torch.from_numpy(samples) - posterior.mean) / posterior.std
    assert kstest(noise.numpy().ravel(), "norm").pvalue > 0.01


@pytest.mark.parametrize(
    ("count", "latent_dim", "scale", "logvar", "fitted"),
    [
        (1, 3, 1, -1, False),  # has no covariance
        (2, 3, 1, -1, True),
        (50, 3, 0, -40, True),  # one point
        (50, 3, 1e-9, -40, True),
        (50, 60, 1e9, -40, False),  # numerically singular
        (50, 3, 1e18, 20, True),
        (50, 3, np.nan, 0, False),
        (4, 2049, 1, 0, False),
    ],
)
def test_figures_of_extreme_latents(count, latent_dim, scale, logvar, fitted, tmp_path, caplog):
    model, images, evaluation, _ = known_model(count, latent_dim, scale, logvar)
    for statistics in (evaluation.kl_per_latent, evaluation.std_of_means):
        statistics.nan_to_num_()  # validation has ended a run where they are not finite
    drawn = draw_figures(model, images[:3], images, evaluation, tmp_path)
    height = Image.open(drawn.files["figures/samples"]).height
    kinds = {f"faces/{kind}s" for kind in ("original", "reconstruction", "sample", "interpolation")}
    assert set(drawn.faces) == kinds | ({"faces/fitted_samples"} if fitted else set())
    assert len(drawn.faces["faces/originals"]) == min(count, 3)
    assert height > 6 * 98 if fitted else 4 * 98 < height < 5 * 98
    singular = latent_dim <= 2048 and count > 1 and not fitted
    assert ("no samples of a Gaussian" in caplog.text) == singular


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
