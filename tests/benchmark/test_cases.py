"""Single measurements: what is timed, and how its figures follow from the time."""

import pytest
import torch
from PIL import Image

from vae.benchmark.cases import (
    pack_array,
    prepare_evaluation,
    prepare_layers,
    prepare_loading,
    prepare_matrix,
    torchvision_dataset,
    with_growth,
    write_pictures,
)
from vae.benchmark.steps import Setting
from vae.models.layers import FORMS, UpsampleConv

TINY = Setting(batch=4, image_size=16, channels=(8, 8), latent_dim=4, pictures=9, matrix_side=64)


@pytest.fixture(autouse=True)
def quarter_seconds(monkeypatch):
    """Timers that do their work once, in a quarter of a second."""
    fake = lambda work, *_: lambda: (work(), 0.25)[1]  # noqa: E731
    monkeypatch.setattr("vae.benchmark.cases.timer", fake)


def test_both_ways_load_the_same_pictures(tmp_path):
    files = write_pictures(tmp_path / "faces", 5, seed=0)
    assert {Image.open(file).size for file in files} == {(178, 218)}
    assert len({file.read_bytes() for file in files}) == 5
    packed = torch.from_numpy(pack_array(files, 64, tmp_path).copy()).permute(0, 3, 1, 2) / 255
    decoded = torch.stack([image for image, _ in torchvision_dataset(tmp_path, 64)])
    # both antialias, one rounds to bytes a little otherwise
    torch.testing.assert_close(decoded, packed, atol=2 / 255, rtol=0)


def test_loading_counts_whole_batches(tmp_path):
    found = prepare_loading(TINY, tmp_path)()
    assert found == {"data/packed": 48.0, "data/0 workers": 48.0, "data/2 workers": 48.0}
    assert len(list(tmp_path.rglob("*.jpg"))) == 12  # 9, to whole batches of 4


def test_layers_are_timed_in_each_form(monkeypatch):
    calls = []
    forward = UpsampleConv.forward

    def spied(layer, x):
        calls.append((layer.form, tuple(x.shape)))
        return forward(layer, x)

    monkeypatch.setattr(UpsampleConv, "forward", spied)
    found = prepare_layers(TINY)()
    assert calls == [(form, (4, 8, side, side)) for side in (4, 8) for form in FORMS]
    names = ("8 to 8 at 4 px", "8 to 3 at 8 px")
    assert found == {f"layers/{name}/{form}": 250.0 for name in names for form in FORMS}


def test_a_multiply_add_is_two_operations():
    gflops = 2 * 64**3 / 0.25 / 1e9
    assert prepare_matrix(TINY)() == pytest.approx({"matrix/fp32": gflops, "matrix/bf16": gflops})


@pytest.mark.parametrize(("has_it", "bytes_a_value"), [(False, 4), (True, 2)])
def test_evaluation_is_in_the_default_runs_precision(has_it, bytes_a_value, map_bytes, monkeypatch):
    monkeypatch.setattr("vae.utils.devices.computes_in_bf16", lambda _: has_it)
    assert prepare_evaluation(TINY)() == {"evaluation": 512.0}  # 128 images
    assert map_bytes == {bytes_a_value}


def test_growth_is_relative_to_the_previous_row():
    rows = [
        {
            "batch": batch,
            "images_per_second": {"median": rate},
            "peak_bytes": peak,
            "flops_per_image": flops,
        }
        for batch, rate, peak, flops in ((4, 8.0, 10.0, 25), (4, 2.0, 30.0, 50), (8, 2.0, 30.0, 50))
    ]
    found = with_growth(rows)
    # a step of 0.5 s, then 2 s for twice the work, then 4 s for twice that
    assert [row["time_growth"] for row in found] == [None, 2.0, 1.0]
    assert [row["memory_growth"] for row in found] == [None, 1.5, 0.5]
