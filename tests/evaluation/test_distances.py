"""Features of images, and Fréchet and kernel distances in them.

Against closed forms, SciPy's matrix root, a double loop and torchmetrics.
"""

import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import sqrtm
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from vae.data import CelebAConfig, FolderConfig, SyntheticConfig
from vae.data.synthetic.faces import FACTOR_NAMES, draw, sample_factors
from vae.evaluation import MetricsConfig, TrainedModel, distances, networks
from vae.evaluation.distances import (
    BLOCK,
    FaceCrop,
    Features,
    KernelDistance,
    frechet_distance,
    measure_distances,
    pick_features,
    squared_mmd,
)
from vae.evaluation.latents import RunningGaussian

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
        *((celeba(140), (18, 35, 105)), (celeba(128), (12, 23, 105))),
        *((celeba(105), (0, 0, 105)), (celeba(64), (0, 0, 64)), (FOLDER, (0, 0, 1))),
    ],
)
def test_boxes_are_within_the_image(data, pixels):
    assert data.face_box == pytest.approx([value / (data.celeba_crop or 1) for value in pixels])


def centres_of_change(factor, top, bottom):
    """Where pictures change with a factor, left and right of the middle: (2, x and y).

    The mean over many faces, in parts of the image's side; looked for from row `top` to
    `bottom`.
    """
    faces = torch.from_numpy(sample_factors("rich", 64, 3))
    for absent in ("glasses", "hat", "beard"):
        faces[:, FACTOR_NAMES.index(absent)] = 0
    pictures = []
    for value in (0, 1):
        faces[:, FACTOR_NAMES.index(factor)] = value
        pictures.append(draw(faces, 64))
    change = (pictures[0] - pictures[1]).abs().sum(1).mean(0)
    place = (torch.arange(64) + 0.5) / 64
    change[(place < top) | (place > bottom)] = 0
    halves = change * (place < 0.5), change * (place > 0.5)
    return torch.stack(
        [torch.stack([half.sum(0) @ place, half.sum(1) @ place]) / half.sum() for half in halves]
    )


@pytest.mark.slow
def test_drawn_faces_are_framed_like_celeba():
    left, top, side = DRAWN.face_box
    centres = torch.stack(
        [centres_of_change("iris", 0.3, 0.7), centres_of_change("lip_red", 0.5, 1)]
    )
    eyes, lips = (centres - torch.tensor([left, top])) / side
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


@pytest.mark.parametrize("count", [0, 1, 16, 17, 50])
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
    monkeypatch.setattr(networks, "load_inception", lambda _: Means())
    monkeypatch.setattr(networks, "load_face_net", Means)


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
    monkeypatch.setattr(networks, "PACKAGE", "a_package_that_is_not_there")
    found, notes = pick_features(trained(), 5000)
    assert found is None
    assert notes[0].startswith("FID is left out: the weights of FID's Inception are not here")
    assert "could not be downloaded (<urlopen error no network for" in notes[0]
    assert notes[1:] == ['Face features are not installed: pip install -e ".[faces]"']


def test_a_configured_box_overrides_the_data_sets(stand_ins):
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, :16, :16] = 1
    corner, _ = pick_features(trained(face_box=[0.0, 0.0, 0.25]), 500)
    known, _ = pick_features(trained(), 500)
    assert corner(images).mean() == 1
    assert known(images).mean() == 0


def fitted(features):
    gaussian = RunningGaussian(features.shape[1])
    gaussian.update(torch.as_tensor(features))
    return gaussian


def correlated(count, dimensions, seed, offset=0.0):
    """Features with a covariance that is not diagonal, (count, dimensions) float64."""
    random = np.random.default_rng(seed)
    return random.normal(size=(count, dimensions)) @ random.normal(size=2 * (dimensions,)) + offset


def test_non_commuting_covariances_equal_scipy():
    first, second = correlated(90, 20, 10), correlated(150, 20, 11, offset=0.3)
    ours, theirs = np.cov(first.T), np.cov(second.T)
    root = sqrtm(ours @ theirs).real
    expected = ((first.mean(0) - second.mean(0)) ** 2).sum() + np.trace(ours + theirs - 2 * root)
    sides = fitted(first), fitted(second)
    assert frechet_distance(*sides) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(*sides[::-1]) == pytest.approx(expected, rel=1e-9)


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
        features = correlated(count, 25, seed)
        distance = frechet_distance(fitted(features), fitted(features))
        assert 0 <= distance < 1e-5


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


def by_loops(first, second):
    """Each pair on its own, as the paper has it."""

    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3

    def mean(pairs):
        return statistics.fmean(kernel(x, y) for x, y in pairs)

    first, second = first.tolist(), second.tolist()
    within = [
        mean((x, y) for i, x in enumerate(side) for j, y in enumerate(side) if i != j)
        for side in (first, second)
    ]
    return sum(within) - 2 * mean((x, y) for x in first for y in second)


def streamed(first, second, block, batch):
    distance = KernelDistance(first.shape[1], block)
    for pair in zip(first.split(batch), second.split(batch), strict=True):
        distance.update(*pair)
    return distance.result()


@pytest.mark.parametrize("counts", [(2, 2), (9, 9), (7, 12)])
def test_mmd_equals_a_double_loop(counts):
    first, second = normal(counts[0], 5, 0), normal(counts[1], 5, 1, mean=0.5)
    assert squared_mmd(first, second) == pytest.approx(by_loops(first, second), rel=1e-6)
    first, second = normal(40, 64, 12, mean=30.0), normal(40, 64, 13, mean=30.0)
    assert squared_mmd(first, second) == squared_mmd(first.double(), second.double())


def test_kernel_distance_equals_torchmetrics_on_one_block():
    first, second = normal(60, 8, 2), normal(60, 8, 3, mean=0.3)
    with pytest.warns(UserWarning, match="Kernel Inception Distance"):
        theirs = KernelInceptionDistance(torch.nn.Identity(), subsets=1, subset_size=60)
    theirs.update(first.double(), real=True)
    theirs.update(second.double(), real=False)
    mean, error = streamed(first, second, block=BLOCK, batch=16)
    assert error is None
    assert mean == pytest.approx(theirs.compute()[0].item(), rel=1e-5)


def test_the_estimate_is_unbiased():
    # In one dimension k(x, y) = (xy + 1)³ = Σ binom(3, i) xⁱ yⁱ, so the squared MMD is
    # Σ binom(3, i) (E xⁱ - E yⁱ)². Of N(0, 1) the moments are 0, 1, 0; of N(m, 1) m, 1 + m²,
    # m³ + 3m.
    m = 0.8
    truth = 3 * m**2 + 3 * (m**2) ** 2 + (m**3 + 3 * m) ** 2
    estimates = np.array(
        [squared_mmd(normal(4, 1, 2 * i), normal(4, 1, 2 * i + 1, m)) for i in range(2000)]
    )
    error = estimates.std() / math.sqrt(len(estimates))
    assert error < 0.2 * truth
    assert abs(estimates.mean() - truth) < 4 * error


@pytest.mark.parametrize("batch", [1, 7, 10, 64])
@pytest.mark.parametrize(
    ("count", "blocks"),
    [
        (30, [(0, 10), (10, 20), (20, 30)]),
        (24, [(0, 10), (10, 20)]),  # the last is less than half full
        (25, [(0, 10), (10, 20), (20, 25)]),
        (4, [(0, 4)]),  # the only one
    ],
)
def test_blocks_do_not_depend_on_batches(count, blocks, batch):
    first, second = normal(count, 3, 6), normal(count, 3, 7, mean=1.0)
    estimates = [squared_mmd(first[a:b], second[a:b]) for a, b in blocks]
    mean, error = streamed(first, second, block=10, batch=batch)
    assert mean == pytest.approx(statistics.fmean(estimates))
    if len(blocks) == 1:
        assert error is None
    else:
        expected = statistics.stdev(estimates) / math.sqrt(len(estimates))
        assert error == pytest.approx(expected)


@pytest.mark.parametrize(("count", "used"), [(21, 20), (26, 26), (7, 7)])
def test_surplus_images_of_one_side_are_ignored(count, used):
    first, second = normal(47, 3, 8), normal(count, 3, 9)
    distance = KernelDistance(3, block=10)
    distance.update(first[:30], second[:4])
    distance.update(first[30:], second[4:])
    assert distance.result() == streamed(first[:used], second[:used], block=10, batch=20)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 1), (1, 5), (5, 0)])
def test_two_images_per_side_are_required(first, second):
    distance = KernelDistance(3)
    distance.update(normal(first, 3, 0), normal(second, 3, 1))
    with pytest.raises(ValueError, match="at least 2 images a side"):
        distance.result()


def test_the_floor_is_that_of_training_images():
    """Of 200 and 150 images 140 are compared, of each split others."""
    run = trained()
    images = np.random.default_rng(0).integers(256, size=(350, 8, 8, 3), dtype=np.uint8)
    vars(run)["data"] = SimpleNamespace(images={"train": images[:200], "val": images[200:]})
    features = Features("faces", Means(), 3, CPU)
    found = measure_distances(run, "val", 140, 3, features, {"same": lambda batch: batch})
    assert found["same"].frechet == pytest.approx(0, abs=1e-6)
    sides = []
    for split in ("val", "train"):
        rows = np.random.default_rng(3).choice(len(run.data.images[split]), 140, replace=False)
        chosen = torch.from_numpy(run.data.images[split][np.sort(rows)]).permute(0, 3, 1, 2)
        sides.append((chosen / 255).mean((2, 3)))
    floor = found["floor"]
    assert floor.frechet == pytest.approx(frechet_distance(*map(fitted, sides)), rel=1e-3)
    assert floor.kernel == pytest.approx(squared_mmd(*sides), rel=1e-3, abs=1e-7)
    assert floor.pairwise == pytest.approx(
        (sides[0] - sides[1]).norm(dim=1).mean().item(), rel=1e-4
    )
