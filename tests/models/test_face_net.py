"""The face network against dlib's own features."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from vae.models import face_net
from vae.models.face_net import load_face_net
from vae.utils.errors import UserError

# Every 11th of the 128 features of the pictures below, as dlib 20.0.1 computed them
# (face_recognition_model_v1.compute_face_descriptor).
BY_DLIB = [
    [
        *(-0.0868393, -0.0671922, -0.0109577, -0.0646428, 0.1897654, -0.0930742),
        *(-0.0498891, 0.2225681, 0.2142800, 0.0031872, 0.0140750, -0.0628912),
    ],
    [
        *(-0.0533934, -0.0204048, 0.0359155, -0.0422324, 0.2035663, -0.1658721),
        *(-0.0970782, 0.1840765, 0.1897317, 0.0125697, -0.0674632, -0.0425695),
    ],
]


def test_face_features_equal_dlibs(monkeypatch):
    """The weights are found without an import, and no random number is drawn for them."""
    monkeypatch.delitem(sys.modules, face_net.PACKAGE, raising=False)
    before = torch.random.get_rng_state()
    net = load_face_net()
    assert face_net.PACKAGE not in sys.modules
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not net.training
    assert not any(weight.requires_grad for weight in net.parameters())
    y, x = torch.meshgrid(torch.arange(150), torch.arange(150), indexing="ij")
    busy = (x * x + 3 * x * y + 7 * y, 5 * x + y * y, x * y + 11 * x + 2 * y)
    smooth = ((x + y) * 255 // 298, x * 255 // 149, (149 - y) * 255 // 149)
    features = net(torch.stack([torch.stack(busy) % 256, torch.stack(smooth)]) / 255)
    assert features.shape == (2, 128)
    torch.testing.assert_close(features[:, ::11], torch.tensor(BY_DLIB), atol=2e-6, rtol=0)


def test_damaged_and_missing_face_weights_are_refused(tmp_path, monkeypatch):
    content = bytearray(
        (
            Path(importlib.util.find_spec(face_net.PACKAGE).origin).parent / face_net.FILE
        ).read_bytes()
    )
    content[len(content) // 2] ^= 1  # one bit of one weight
    file = tmp_path / "net.dat"
    monkeypatch.setattr(face_net, "FILE", str(file))
    with pytest.raises(UserError, match=r"net\.dat: cannot be read: No such file"):
        load_face_net()
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"net\.dat: is damaged, or not dlib's .* pip install"):
        load_face_net()
