"""Interpolation: the path, the strip, the animations, file names."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import geometric_slerp

from tests.generation.test_reconstruct import as_bytes, faces_on
from tests.support.data_sets import save_noise
from vae.generation.decode import interpolate
from vae.generation.figures import slerp
from vae.generation.photos import load_faces
from vae.runs.load import load_run
from vae.utils.errors import UserError


@pytest.mark.parametrize("dimensions", [2, 3, 128])
def test_slerp_equals_scipys(dimensions):
    ends = torch.randn(2, dimensions, generator=torch.Generator().manual_seed(1))
    lengths = ends.norm(dim=1)
    directions = (ends / lengths[:, None]).double()
    directions /= directions.norm(dim=1, keepdim=True)
    expected = geometric_slerp(*directions.numpy(), np.linspace(0, 1, 7))
    expected *= np.linspace(*lengths.tolist(), 7)[:, None]
    np.testing.assert_allclose(slerp(*ends, 7).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("angle", [3e-4, 1e-3, 0.1, 3.0, math.pi - 1e-2, math.pi - 1e-3])
def test_slerp_of_nearly_parallel_latents_keeps_the_norm(angle):
    start = torch.tensor([3.0, 0.0, 0.0])
    end = torch.tensor([3 * math.cos(angle), 3 * math.sin(angle), 0.0])
    arc = slerp(start, end, 9)
    assert torch.allclose(arc.norm(dim=1), torch.full((9,), 3.0), atol=0.01)
    assert torch.atan2(arc[4, 1], arc[4, 0]).item() == pytest.approx(angle / 2, abs=1e-3)


def decoded(run, latents):
    with torch.inference_mode():
        return run.model.decode(latents)


def outspoken(run):
    """The run with its latents scaled: short training leaves them near 0."""
    with torch.no_grad():
        run.model.encoder.mean.weight *= 30
    return run


def ends_of(run, words):
    faces, _ = load_faces(words, run)
    with torch.inference_mode():
        return faces, run.model.encode(faces).mode


def test_strips_start_and_end_at_the_originals(finished):
    run = outspoken(load_run("run"))
    strip, *_ = interpolate(run, ["2", "5"], steps=3, folder=run.folder)
    faces, (start, end) = ends_of(run, ["2", "5"])
    shown = faces_on(strip, 2)
    line = decoded(run, torch.stack([start, (start + end) / 2, end]))
    expected = as_bytes(torch.cat([faces[:1], line, faces[1:]])).astype(int)
    assert np.abs(shown[0] - expected).max() <= 1
    assert np.abs(shown[1][[0, 1, 3, 4]] - expected[[0, 1, 3, 4]]).max() <= 1
    arc = as_bytes(decoded(run, slerp(start, end, 3)[1:2])).astype(int)
    assert np.abs(shown[1][2] - arc[0]).max() <= 1
    assert np.abs(arc[0] - expected[2]).max() > 2


def test_animations_start_and_turn_at_the_faces(finished):
    run = outspoken(load_run("run"))
    _, linear, spherical = interpolate(run, ["2", "5"], folder=run.folder)
    _, latents = ends_of(run, ["2", "5"])
    ends = as_bytes(decoded(run, latents)).astype(int)
    assert np.abs(ends[0] - ends[1]).mean() > 10
    for file in (linear, spherical):
        with Image.open(file) as animation:
            count = animation.n_frames
            assert count % 2 == 0
            for place, expected in [(0, ends[0]), (count // 2, ends[1])]:
                animation.seek(place)
                shown = np.asarray(animation.convert("RGB"))[5::6, 5::6][:16, :16]
                assert np.abs(shown - expected).mean() < 4


@pytest.mark.parametrize(
    ("method", "kinds"),
    [("linear", ["linear"]), ("spherical", ["spherical"]), ("both", ["linear", "spherical"])],
)
def test_method_selects_linear_spherical_or_both(method, kinds, finished):
    out = finished.parent / "out"
    files = interpolate(load_run("run"), method=method, folder=out)
    names = ["interpolate_0_1.png", *(f"interpolate_0_1_{kind}.gif" for kind in kinds)]
    assert [file.name for file in files] == names
    assert sorted(file.name for file in (out / "figures").iterdir()) == sorted(names)
    with Image.open(files[0]) as strip:
        assert 98 * len(kinds) < strip.height < 98 * len(kinds) + 60
    with pytest.raises(UserError, match="--method: got 'curved', but it takes linear, spherical"):
        interpolate(load_run("run"), method="curved", folder=Path("run"))


def test_pairs_have_their_own_files(finished):
    run = load_run("run")
    long = save_noise(finished.parent / ("x" * 240 + ".png"))
    for number, folder in enumerate("ab"):
        save_noise(finished.parent / folder / "me.png", seed=number)
    pairs = [["0", "1"], ["1", "0"], [str(long), "1"], ["a/me.png", "b/me.png"]]
    strips = [interpolate(run, pair, method="linear", folder=run.folder)[0] for pair in pairs]
    strips += [
        interpolate(run, split=split, method="linear", folder=run.folder)[0]
        for split in ("test", "train")
    ]
    assert len(set(strips)) == len(strips)
    assert all(strip.parent.samefile(finished / "figures") for strip in strips)
