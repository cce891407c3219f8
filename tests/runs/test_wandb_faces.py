"""The same faces of each run as lists on W&B, which the dashboard shows side by side."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.support.train_command import TINY, call_train
from tests.support.wandb_files import read_run

KINDS = ("original", "reconstruction", "sample", "fitted_sample", "interpolation")


@pytest.mark.parametrize("mode", ["offline", pytest.param("online", marks=pytest.mark.slow)])
def test_the_faces_of_two_runs_line_up(mode, wandb_server, tmp_path, monkeypatch, capsys):
    sweep = ["-m", *TINY, "loss.beta=1e-5,1e-1", "sweep.name=s", f"wandb.mode={mode}"]
    code, _, err = call_train(sweep, tmp_path, monkeypatch, capsys)
    assert code == 0, err
    folders = sorted((tmp_path / "multirun" / "s").glob("loss.beta=*"))
    if mode == "offline":
        found = [lists_of_offline_run(folder) for folder in folders]
    else:
        trained = [r for r in wandb_server.runs.values() if r.about["jobType"] == "train"]
        found = [lists_of_online_run(run) for run in trained]
    first, second = found
    for one in found:
        assert set(one) == {f"faces/{kind}s" for kind in KINDS}
        for kind in KINDS:
            captions = [caption for caption, _ in one[f"faces/{kind}s"]]
            count = 4 if kind == "interpolation" else 8
            assert captions == [f"{i} {kind.replace('_', ' ')}" for i in range(count)]
    validation = np.load(next((tmp_path / "data" / "cache").glob("*/val.npy")))
    for one in found:
        originals = [pixels(content) for _, content in one["faces/originals"]]
        assert np.array_equal(originals, validation[:8])
        strip = pixels(one["faces/interpolations"][1][1])
        assert strip.shape == (16, 8 * 16, 3)
        third = pixels(one["faces/reconstructions"][2][1]).astype(int)
        assert np.abs(strip[:, :16] - third).max() <= 1  # it leads from face 2 to face 3
    for key in set(first) - {"faces/originals"}:  # of two models
        assert [content for _, content in first[key]] != [content for _, content in second[key]]


def lists_of_offline_run(folder):
    lists = read_run(folder).image_lists
    return {
        key: [(caption, path.read_bytes()) for caption, path in images]
        for key, images in lists.items()
    }


def lists_of_online_run(run):
    return {
        key: [
            (caption, run.files[name])
            for caption, name in zip(value["captions"], value["filenames"], strict=True)
        ]
        for row in run.history
        for key, value in row.items()
        if key.startswith("faces/")
    }


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))
