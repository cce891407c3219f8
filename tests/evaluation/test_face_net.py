"""The face network against dlib's own features."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vae.evaluation import networks
from vae.evaluation.networks import load_face_net
from vae.utils.errors import UserError

# Every 11th of the 128 features of the pictures below, as dlib 20.0.1 computed them
# (face_recognition_model_v1.compute_face_descriptor).
BY_DLIB = {
    "busy": [
        *(-0.0868393, -0.0671922, -0.0109577, -0.0646428, 0.1897654, -0.0930742),
        *(-0.0498891, 0.2225681, 0.2142800, 0.0031872, 0.0140750, -0.0628912),
    ],
    "smooth": [
        *(-0.0533934, -0.0204048, 0.0359155, -0.0422324, 0.2035663, -0.1658721),
        *(-0.0970782, 0.1840765, 0.1897317, 0.0125697, -0.0674632, -0.0425695),
    ],
}


def picture(name):
    """150 x 150 pixels in whole numbers, so that they are the same everywhere: (1, 3, 150, 150)."""
    y, x = torch.meshgrid(torch.arange(150), torch.arange(150), indexing="ij")
    channels = {
        "busy": [
            (x * x + 3 * x * y + 7 * y) % 256,
            (5 * x + y * y) % 256,
            (x * y + 11 * x + 2 * y) % 256,
        ],
        "smooth": [(x + y) * 255 // 298, x * 255 // 149, (149 - y) * 255 // 149],
    }
    return torch.stack(channels[name])[None] / 255


@pytest.fixture(scope="module")
def file():
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None:
        pytest.skip("the extra `faces` is not installed")
    return Path(spec.origin).parent / networks.FILE


@pytest.fixture(scope="module")
def net(file):
    return load_face_net(file)


def test_features_equal_dlibs(net):
    features = net(torch.cat([picture(name) for name in BY_DLIB]))
    assert features.shape == (2, 128)
    expected = torch.tensor(list(BY_DLIB.values()))
    torch.testing.assert_close(features[:, ::11], expected, atol=2e-6, rtol=0)
    assert net(torch.zeros(0, 3, 150, 150)).shape == (0, 128)


def test_the_network_is_frozen_and_in_evaluation_mode(net):
    assert not net.training
    assert not any(weight.requires_grad for weight in net.parameters())
    assert all(weight.device.type == "cpu" for weight in net.parameters())


def test_the_package_is_located_without_import(file, monkeypatch):
    monkeypatch.delitem(sys.modules, "face_recognition_models", raising=False)
    before = torch.random.get_rng_state()
    load_face_net()
    assert "face_recognition_models" not in sys.modules
    assert torch.equal(torch.random.get_rng_state(), before)


def altered(content):
    """One bit of one weight."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [altered, lambda whole: whole[:-1], lambda _: b"<html>"])
def test_damaged_and_other_files_are_refused(file, tmp_path, damage):
    damaged = tmp_path / "net.dat"
    damaged.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"net\.dat: is damaged, or not dlib's .* pip install"):
        load_face_net(damaged)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"net\.dat: cannot be read: No such file"):
        load_face_net(tmp_path / "net.dat")
