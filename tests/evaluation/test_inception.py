"""FID's network: its weights, and equality with torchmetrics'."""

import builtins
import pickle
import sys
import urllib.request

import pytest
import torch
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity
from torchmetrics.image.fid import FrechetInceptionDistance

from vae.evaluation.distances import Features
from vae.evaluation.latents import RunningGaussian
from vae.evaluation.networks import load_inception
from vae.utils.errors import UserError

CPU = torch.device("cpu")
DOWNLOAD = torch.hub.download_url_to_file  # before it is taken from all tests


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """torch.hub has downloaded nothing yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights of the right names and shapes, 95 MB."""
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


@pytest.fixture(scope="module")
def network(weights):
    return load_inception(str(weights))


def test_statistics_equal_torchmetrics(weights, network):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    # Up to half a step off, as a model's output is: rounding brings back the bytes.
    inexact = (images + 0.98 * torch.rand(images.shape, generator=generator) - 0.49) / 255
    ours = RunningGaussian(2048)
    ours.update(Features("inception", network, 2048, CPU)(inexact.clamp(0, 1)))

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


def test_downloads_of_other_content_are_refused(monkeypatch, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<html>Sign in</html>")
    monkeypatch.setattr(torch.hub, "download_url_to_file", DOWNLOAD)
    monkeypatch.setattr(torch.hub, "urlopen", lambda _: urllib.request.urlopen(page.as_uri()))
    with pytest.raises(UserError, match=r"could not be downloaded .*invalid hash"):
        load_inception("download")
    assert not list((tmp_path / "torch").rglob("*.pth*"))


def test_the_cached_download_is_used(weights, tmp_path, network):
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / "weights-inception-2015-12-05-6726825d.pth").symlink_to(weights)
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(load_inception("download")(images), network(images))


class Harmful:
    """A pickle that calls a function while it is read."""

    def __reduce__(self):
        return exec, ("import builtins; builtins.was_run = True",)


@pytest.mark.parametrize(
    "content", [b"", b"<html>", pickle.dumps(Harmful(), 2), pickle.dumps({"fc.weight": 1}, 2)]
)
def test_files_of_other_content_are_refused(tmp_path, content):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"weights\.pth: is damaged, or does not hold"):
        load_inception(str(file))
    assert not hasattr(builtins, "was_run")
    with pytest.raises(UserError, match=r"metrics\.inception_weights: .* no such file"):
        load_inception(str(tmp_path / "gone.pth"))


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    before = torch.random.get_rng_state()
    with pytest.raises(UserError, match=r"other\.pth: is damaged, or does not hold .*RuntimeError"):
        load_inception(str(file))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_missing_torch_fidelity_is_reported(monkeypatch, weights):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r'not installed: pip install -e "\.\[fid\]"'):
        load_inception(str(weights))
