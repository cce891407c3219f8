"""Loading from files and from the packed array: equal pictures, all counted."""

import torch
from PIL import Image

from vae.benchmark.cases import Files, pack_array, prepare_loading, write_pictures
from vae.benchmark.steps import Setting

TINY = Setting(batch=4, image_size=16, channels=(8, 8), latent_dim=4, pictures=9)


def test_both_ways_load_the_same_pictures(tmp_path):
    files = write_pictures(tmp_path, 5, seed=0)
    assert {Image.open(file).size for file in files} == {(178, 218)}
    assert len({file.read_bytes() for file in files}) == 5
    packed = torch.from_numpy(pack_array(files, 64, tmp_path).copy()).permute(0, 3, 1, 2) / 255
    decoded = torch.stack(list(Files(files, 64)))
    assert decoded.shape == packed.shape == (5, 3, 64, 64)
    # both antialias, one rounds to bytes a little otherwise
    assert (decoded - packed).abs().max() <= 2 / 255


def test_loading_counts_whole_batches(tmp_path, kept_memory, monkeypatch):
    seen = []

    class FakeTimer:
        def __init__(self, work, *_):
            seen.append(work)

        def __call__(self):
            return 0.5

    monkeypatch.setattr("vae.benchmark.cases.Timer", FakeTimer)
    found = prepare_loading(TINY, tmp_path)()
    assert found == {"data/packed": 24.0, "data/0 workers": 24.0, "data/2 workers": 24.0}
    assert len(list(tmp_path.glob("*.jpg"))) == 12  # 9, to whole batches of 4
