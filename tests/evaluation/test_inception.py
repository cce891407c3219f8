"""FID's network against torchmetrics'."""

import builtins
import os
import pickle
import struct
import sys
import urllib.request
import zipfile

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchmetrics.image.fid import FrechetInceptionDistance

from vae.evaluation import inception
from vae.evaluation.distances import Features
from vae.evaluation.inception import load_inception
from vae.evaluation.latents import RunningGaussian
from vae.utils.errors import UserError

DOWNLOAD = torch.hub.download_url_to_file  # before it is taken from all tests


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """torch.hub has downloaded nothing yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights of Inception's names and shapes, 95 MB."""
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("random", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):  # or nothing would come out at the end
                nn.init.kaiming_normal_(module.weight)
    file = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(network.state_dict(), file)
    return file


def test_inception_statistics_equal_torchmetrics(weights, tmp_path):
    """With weights from a file, and with the same in the place of the download."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    # Up to half a step off, as a model's output is: rounding brings back the bytes.
    inexact = (images + 0.98 * torch.rand(images.shape, generator=generator) - 0.49) / 255
    inexact = inexact.clamp(0, 1)
    network = load_inception(str(weights))
    ours = RunningGaussian(2048)
    ours.update(Features("inception", network, 2048, torch.device("cpu"))(inexact))

    theirs = FrechetInceptionDistance(
        feature_extractor_weights_path=str(weights), antialias=False
    )  # resized as TensorFlow did
    theirs.update(images, real=True)
    mean = theirs.real_features_sum / 3
    covariance = (theirs.real_features_cov_sum - 3 * mean.outer(mean)) / 2
    assert mean.abs().mean() > 0.01
    torch.testing.assert_close(ours.mean, mean.double(), rtol=1e-5, atol=1e-6)
    spread = covariance.abs().max().item()
    torch.testing.assert_close(ours.covariance, covariance, atol=1e-4 * spread, rtol=0)

    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "weights-inception-2015-12-05-6726825d.pth").symlink_to(weights)
    assert torch.equal(load_inception("download")(inexact), network(inexact))


def test_downloads_of_other_content_are_refused(monkeypatch, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html>Sign in</html>")
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    monkeypatch.setattr(torch.hub, "urlopen", lambda _: urllib.request.urlopen(page.as_uri()))
    with pytest.raises(UserError, match=r"could not be downloaded .*invalid hash"):
        load_inception("download")
    assert not list((tmp_path / "torch").rglob("*.pth*"))


class Harmful:
    """A pickle that calls a function while it is read."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.was_run = True",)


def test_weights_that_are_no_regular_file_or_too_large_are_refused(tmp_path, monkeypatch):
    file = tmp_path / "weights.pth"
    os.mkfifo(file)
    for what in ("not a regular file", r"too large: 5,369 MB of at most 268"):
        with pytest.raises(UserError, match=rf"weights\.pth cannot be read: {what}"):
            load_inception(str(file))
        file.unlink()
        file.touch()
        os.truncate(file, 5 << 30)
    monkeypatch.setattr(inception, "MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data/0", bytes(2 << 20))
    with pytest.raises(UserError, match=r"weights\.pth: is damaged, or does not hold"):
        load_inception(str(file))


# The end of an archive with one record, which is not there.
NO_RECORD = bytes(46) + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 46, 0, 0)


@pytest.mark.parametrize("content", [b"<html>", pickle.dumps(Harmful(), 2), NO_RECORD, None])
def test_files_of_other_content_are_refused(tmp_path, content):
    file = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=r"metrics\.inception_weights: .* No such file"):
        load_inception(str(file))
    torch.save(nn.Linear(2, 2).state_dict(), file)
    if content is not None:
        file.write_bytes(content)
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match=r"weights\.pth: is damaged, or does not hold"):
        load_inception(str(file))
    assert not hasattr(builtins, "was_run")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_missing_torch_fidelity_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r'not installed: pip install -e "\.\[fid\]"'):
        load_inception("download")
