"""Features of images, and Fréchet and kernel distances in them.

Against torchmetrics and closed forms.
"""

import math
import statistics

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from vae.data import CelebAConfig, FolderConfig, SyntheticConfig
from vae.data.synthetic.faces import FACTOR_NAMES, draw, sample_factors
from vae.evaluation import MetricsConfig, TrainedModel, distances, inception
from vae.evaluation.distances import (
    FaceCrop,
    Features,
    PairedDistances,
    frechet_distance,
    pick_features,
    squared_mmd,
)
from vae.evaluation.latents import RunningGaussian
from vae.models import face_net

CPU = torch.device("cpu")
COMMON = {"root": "data", "image_size": 64, "batch_size": 8, "num_images": 100}
COMMON |= {"flip": False, "num_workers": 1}
DRAWN = SyntheticConfig(name="synthetic", preset="rich", seed=0, **COMMON)
FOLDER = FolderConfig(name="folder", path="pictures", **COMMON)

# Means of CelebA's landmarks in 178 x 218 pixels: eyes, corners of the mouth.
LANDMARKS = torch.tensor([[69.0, 111], [108, 111], [73, 152], [105, 152]])
IN_BOX = (LANDMARKS - torch.tensor([37, 78])) / 105


def celeba(crop):
    return CelebAConfig(name="celeba", path=None, crop=crop, **COMMON)


@pytest.mark.parametrize("crop", [148, 178, None, 300])
def test_celeba_landmarks_match_the_face_box(crop):
    left, top, side = celeba(crop).face_box
    square = min(crop or 178, 178)
    cut_from = torch.tensor([(178 - square) / 2, (218 - square) / 2])  # of the centre square
    in_image = (LANDMARKS - cut_from) / square
    in_box = (in_image - torch.tensor([left, top])) / side
    torch.testing.assert_close(in_box, IN_BOX, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("data", "pixels"),
    [
        (celeba(128), (12, 23, 105)),
        (celeba(64), (0, 0, 64)),
        (FOLDER, (0, 0, 1)),
    ],
)
def test_boxes_are_within_the_image(data, pixels):
    assert data.face_box == pytest.approx([value / (data.celeba_crop or 1) for value in pixels])


@pytest.mark.slow
def test_drawn_faces_are_framed_like_celeba():
    """Pictures change with a factor, on average, where CelebA has its eyes and its mouth."""
    faces = torch.from_numpy(sample_factors("rich", 64, 3))
    for absent in ("glasses", "hat", "beard"):
        faces[:, FACTOR_NAMES.index(absent)] = 0
    left, top, side = DRAWN.face_box
    place = (torch.arange(64) + 0.5) / 64
    centres = []
    for factor, above, below in (("iris", 0.3, 0.7), ("lip_red", 0.5, 1)):
        pictures = []
        for value in (0, 1):
            faces[:, FACTOR_NAMES.index(factor)] = value
            pictures.append(draw(faces, 64))
        change = (pictures[0] - pictures[1]).abs().sum((0, 1))
        change[(place < above) | (place > below)] = 0
        halves = change * torch.stack([place < 0.5, place > 0.5])[:, None]
        halves /= halves.sum((1, 2), keepdim=True)
        in_image = torch.stack([halves.sum(1) @ place, halves.sum(2) @ place], dim=1)
        centres.append((in_image - torch.tensor([left, top])) / side)
    eyes, lips = centres
    torch.testing.assert_close(eyes, IN_BOX[:2], atol=0.03, rtol=0)
    # What changes of the lips is all of them, not their corners: that says how high, not how wide.
    torch.testing.assert_close(lips.mean(0), IN_BOX[2:].mean(0), atol=0.03, rtol=0)


def test_the_crop_equals_the_box():
    images = torch.zeros(2, 3, 40, 40)
    images[:, 0, 10:30, 8:28] = torch.rand(20, 20)
    cut = FaceCrop((0.2, 0.25, 0.5))(images)
    assert cut.shape == (2, 3, 150, 150)
    alone = F.interpolate(images[:, :, 10:30, 8:28], (150, 150), mode="bilinear")
    torch.testing.assert_close(cut, alone)
    stripes = (torch.arange(600) % 4 < 1).float().expand(1, 3, 600, 600)  # finer than its pixels
    small = FaceCrop((0, 0, 1))(stripes)
    torch.testing.assert_close(small, torch.full_like(small, 0.25), atol=0.08, rtol=0)


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5), (0, 0.29, 0.71), (0.99, 0.99, 0.01)])
def test_every_box_fits_every_size(box):
    for size in (8, 9, 33, 64):
        cut = FaceCrop(box)(torch.ones(1, 3, size, size))
        torch.testing.assert_close(cut, torch.ones(1, 3, 150, 150))


class Means(nn.Module):
    """A stand-in for a network: the means of the channels. Notes how many images it was given."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, images):
        self.batches.append(len(images))
        return images.mean((2, 3)) * self.weight


@pytest.mark.parametrize("count", [1, 16, 50])
def test_features_keep_the_order_of_images(count):
    network = Means().train()
    images = torch.rand(count, 3, 8, 8)
    found = Features("faces", network, 3, CPU)(images)
    torch.testing.assert_close(found, images.mean((2, 3)))
    assert max(network.batches) <= distances.FEATURE_BATCH
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not network.training


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(inception, "load_inception", lambda _: Means())
    monkeypatch.setattr(face_net, "load_face_net", Means)


def trained(data=DRAWN, **settings):
    return TrainedModel(nn.Linear(1, 1), None, data, None, MetricsConfig(**settings))


@pytest.mark.parametrize(
    ("count", "weights", "name", "keys", "notes"),
    [
        (2049, "download", "inception", ("fid", "kid"), []),
        *(
            (count, "download", "faces", ("face_distance", "face_kernel_distance"), [
                f"FID needs more than 2,048 images; there are {count:,}."
            ])
            for count in (2048, 129)
        ),
        (5000, "none", "faces", ("face_distance", "face_kernel_distance"), [
            "FID is left out: metrics.inception_weights=none."
        ]),
        (128, "download", None, None, [
            "FID needs more than 2,048 images; there are 128.",
            "The face distance needs more than 128 images; there are 128.",
        ]),
    ],
)  # fmt: skip
def test_the_best_features_for_the_images(stand_ins, count, weights, name, keys, notes):
    found, said = pick_features(trained(inception_weights=weights), count)
    assert said == notes
    if name is None:
        assert found is None
    else:
        assert found.name == name
        assert found.dimensions == {"inception": 2048, "faces": 128}[name]
        assert (found.distance_key, found.kernel_key) == keys


def test_features_that_cannot_be_had_are_noted(monkeypatch, tmp_path):
    """Inception's weights could not be downloaded; the extra `faces` is not installed."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(face_net, "PACKAGE", "a_package_that_is_not_there")
    found, notes = pick_features(trained(), 5000)
    assert found is None
    assert notes[0].startswith("FID is left out: the weights of FID's Inception are not here")
    assert "could not be downloaded (<urlopen error no network for" in notes[0]
    assert notes[1:] == ['Face features are not installed: pip install -e ".[faces]"']


def test_a_configured_box_overrides_the_data_sets(stand_ins):
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, 50:, 50:] = 1
    corner, _ = pick_features(trained(face_box=[0.8, 0.8, 0.2]), 500)
    known, _ = pick_features(trained(), 500)
    assert corner(images).mean() == 1
    assert known(images).mean() < 0.1


def fitted(features):
    gaussian = RunningGaussian(features.shape[1])
    gaussian.update(torch.as_tensor(features))
    return gaussian


def correlated(count, dimensions, seed, offset=0.0):
    """Features with a covariance that is not diagonal, (count, dimensions) float64."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dimensions)) @ random.normal(size=2 * (dimensions,)) + offset


def test_fewer_images_than_dimensions_equal_singular_values():
    first, second = correlated(12, 40, 12), correlated(15, 40, 13)
    # With X the centred features / sqrt(n - 1), C = XᵀX, and the trace of the root of C₁C₂
    # is the sum of the singular values of X₁ X₂ᵀ.
    x, y = ((f - f.mean(0)) / np.sqrt(len(f) - 1) for f in (first, second))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    means = ((first.mean(0) - second.mean(0)) ** 2).sum()
    expected = means + (x**2).sum() + (y**2).sum() - 2 * root
    assert frechet_distance(fitted(first), fitted(second)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [3, 30, 300])
def test_equal_sets_have_distance_zero(count):
    for seed in range(4):
        gaussian = fitted(correlated(count, 25, seed))
        assert 0 <= frechet_distance(gaussian, gaussian) < 1e-5


def test_frechet_distance_equals_torchmetrics():
    class Pixels(torch.nn.Module):
        num_features = 48

        def forward(self, images):
            return images.double().flatten(1) / 255

    generator = torch.Generator().manual_seed(14)
    first = torch.randint(0, 256, (200, 3, 4, 4), generator=generator, dtype=torch.uint8)
    second = torch.randint(30, 200, (100, 3, 4, 4), generator=generator, dtype=torch.uint8)
    theirs = FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 4, 4))
    theirs.set_dtype(torch.float64)
    theirs.update(first, real=True)
    theirs.update(second, real=False)
    ours = frechet_distance(fitted(Pixels()(first)), fitted(Pixels()(second)))
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


def normal(count, dimensions, seed, mean=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator) + mean


def compared(first, second, batch):
    found = PairedDistances(first.shape[1])
    for pair in zip(first.split(batch), second.split(batch), strict=True):
        found.update(*pair)
    return found.result(fitted(first))


@pytest.mark.parametrize("far", [0.0, 30.0])  # in float32 the difference would be lost
def test_kernel_distance_equals_torchmetrics_on_one_block(far):
    first, second = normal(60, 8, 2, far), normal(60, 8, 3, far + 0.3)
    with pytest.warns(UserWarning, match="Kernel Inception Distance"):
        theirs = KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=60)
    theirs.set_dtype(torch.float64)
    theirs.update(first.double(), real=True)
    theirs.update(second.double(), real=False)
    found = compared(first, second, batch=16)
    assert found.kernel == pytest.approx(theirs.compute()[0].item(), rel=1e-5)
    assert found.kernel_error is None


@pytest.mark.parametrize(
    ("count", "blocks"),
    [
        (30, [(0, 10), (10, 20), (20, 30)]),
        (24, [(0, 10), (10, 20)]),  # the last is less than half full
        (25, [(0, 10), (10, 20), (20, 25)]),
        (4, [(0, 4)]),  # the only one
    ],
)
@pytest.mark.parametrize("batch", [7, 64])
def test_kernel_distance_is_the_mean_over_blocks(count, blocks, batch, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", 10)
    first, second = normal(count, 3, 6), normal(count, 3, 7, mean=1.0)
    estimates = [squared_mmd(first[a:b], second[a:b]) for a, b in blocks]
    found = compared(first, second, batch)
    assert found.kernel == pytest.approx(statistics.fmean(estimates))
    if len(blocks) > 1:
        error = statistics.stdev(estimates) / math.sqrt(len(estimates))
        assert found.kernel_error == pytest.approx(error)
