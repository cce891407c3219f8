"""`vae edit` on a finished run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cli import TINY, call_train
from tests.data_sets import save_noise
from vae.checkpoint import load_checkpoint, save_checkpoint
from vae.cli import main
from vae.editing.directions import balanced_accuracy
from vae.editing.edit import edit
from vae.editing.learned import learn_directions
from vae.photographs import load_faces
from vae.saved import load_run

NAME = "Eyeglasses"


def call(arguments, capsys):
    capsys.readouterr()
    code = main(["edit", "run", *arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def means(run, split):
    images = torch.from_numpy(run.data.images[split].copy()).permute(0, 3, 1, 2) / 255
    with torch.inference_mode():
        return run.model.encode(images).mode.double()


def test_the_directions_are_from_the_training_faces_and_tested_on_others(finished):
    run = load_run("run")
    learned = learn_directions(run)
    names = learned.directions.names
    labels = {split: run.data.attributes(split) for split in ("train", "val")}
    columns = [labels["train"].names.index(name) for name in names]
    has = labels["train"].values[:, columns] == 1
    latents = means(run, "train").numpy()
    for row, mask in enumerate(has.T):
        expected = latents[mask].mean(0) - latents[~mask].mean(0)
        assert np.allclose(learned.directions.means[row], expected, atol=1e-5)
    scores = learned.directions.scores(means(run, "val"))
    told = balanced_accuracy(scores, torch.from_numpy(labels["val"].values[:, columns].copy()))
    assert list(learned.accuracy.values()) == pytest.approx(told.tolist(), nan_ok=True)
    assert "Wearing_Hat" not in names  # no face of the preset `core` has one


def test_they_are_kept_and_are_of_the_checkpoint(finished, monkeypatch, caplog):
    run = load_run("run")
    first = learn_directions(run)
    file = finished / "directions" / "last.npz"
    before = file.read_bytes()
    with monkeypatch.context() as none_there:
        none_there.setattr("vae.saved.SavedRun.data", None)  # not needed again
        again = learn_directions(load_run("run"))
    assert again.directions.names == first.directions.names
    assert torch.equal(again.directions.normal, first.directions.normal)
    assert again.accuracy.keys() == first.accuracy.keys()

    file.write_bytes(before[:-40])
    learn_directions(run)
    assert "damaged" in caplog.text
    assert file.read_bytes() == before  # the same bytes, made again

    checkpoint = finished / "checkpoints" / "last.pt"
    state = load_checkpoint(checkpoint)
    key = next(k for k in state["model"] if k.startswith("encoder") and k.endswith("weight"))
    state["model"][key] *= 1.1
    save_checkpoint(checkpoint, state)
    learn_directions(load_run("run"))
    assert file.read_bytes() != before


@pytest.mark.parametrize("method", ["normal", "means"])
def test_a_face_moves_along_the_direction(method, finished):
    run = load_run("run")
    made = edit(run, ["3", "5"], [NAME], 1.5, method=method)
    faces, _ = load_faces(["3", "5"], run)
    directions = learn_directions(run).directions
    step = getattr(directions, method)[directions.names.index(NAME)].float()
    with torch.inference_mode():
        latents = run.model.encode(faces).mode
        for column, strength in enumerate((-1.5, -0.75, 0.75, 1.5)):
            expected = run.model.decode(latents + strength * step)
            assert torch.allclose(made.images[:, column], expected, atol=1e-6)


def test_several_attributes_are_each_at_the_strength(finished):
    run = load_run("run")
    names = ["Eyeglasses", "Smiling", "Blond_Hair"]
    both = edit(run, ["2"], names, -1.0)
    for column, name in enumerate(names):
        alone = edit(run, ["2"], [name], -1.0).images[:, -1]
        assert torch.allclose(both.images[:, column], alone, atol=1e-6)


def test_detail_is_what_the_model_leaves_of_the_picture(finished):
    run = load_run("run")
    plain = edit(run, ["2"], [NAME], 1.0)
    kept = edit(run, ["2"], [NAME], 1.0, keep_detail=True)
    (face,), _ = load_faces(["2"], run)
    with torch.inference_mode():
        rest = face - run.model.decode(run.model.encode(face[None]).mode)[0]
    assert torch.allclose(kept.images[0], (plain.images[0] + rest).clamp(0, 1), atol=1e-6)
    nothing = edit(run, ["2"], [NAME], 0.0, keep_detail=True)
    assert torch.allclose(nothing.images[0, 0], face, atol=1e-6)


def test_files_of_given_faces(finished, capsys):
    photograph = save_noise(finished.parent / "me.png")
    found = call([str(photograph), "--attribute", NAME, "--strength", "2"], capsys)
    assert found["files"] == [f"run/figures/edit_{NAME}.png", f"run/edited/me_{NAME}_+2.png"]
    before = [Path(file).read_bytes() for file in found["files"]]
    again = call(["--out", "again", "--attribute", NAME, str(photograph)], capsys)["files"]
    assert [Path(file).read_bytes() for file in again] == before


def test_without_faces_it_shows_those_that_lack_it(finished, monkeypatch):
    seen = []

    def spy(words, *arguments):
        seen.extend(words)
        return load_faces(words, *arguments)

    monkeypatch.setattr("vae.editing.edit.load_faces", spy)
    run = load_run("run")
    edit(run, [], [NAME], 1.0)
    labels = run.data.attributes("val")
    assert len(seen) == 6
    assert not labels.values[[int(n) for n in seen], labels.names.index(NAME)].any()


def test_the_list_is_by_accuracy(finished, capsys):
    accuracy = call(["--list"], capsys)["balanced_accuracy"]
    known = [value for value in accuracy.values() if value is not None]
    assert known == sorted(known, reverse=True)
    assert NAME in accuracy
    assert main(["edit", "run", "--list"]) == 0
    assert "balanced accuracy on held-out faces" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attribute", "Eyeglases"], "no 'Eyeglases'. Did you mean Eyeglasses?"),
        (["--attribute", "smiling"], "no 'smiling'. Did you mean Smiling?"),
        (["--attribute", "Hair"], "Did you mean Black_Hair"),
        (["--attribute", "Zebra"], "no 'Zebra'. `vae edit RUN --list`"),
        ([], "--attribute: which? One or more of "),
        (["--attribute", NAME, "--method", "x"], "--method: got 'x'"),
        (["--attribute", NAME, "--strength", "nan"], "--strength: got nan"),
        (["gone.jpg", "--attribute", NAME], "gone.jpg: there is no such file"),
    ],
)
def test_mistakes_are_one_message(arguments, words, finished, capsys):
    assert main(["edit", "run", *arguments]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: ")
    assert words in err


def test_a_folder_of_pictures_has_no_attributes(pictures, tmp_path, monkeypatch, capsys):
    settings = ["data=folder", f"data.path={pictures}", "hydra.run.dir=run"]
    tiny = [o for o in TINY if not o.startswith("data.num_images")]
    assert call_train([*tiny, *settings], tmp_path, monkeypatch, capsys)[0] == 0
    assert main(["edit", "run", "--list"]) == 1
    assert "nothing is known of the attributes of its images" in capsys.readouterr().err
    pictures.rename(tmp_path / "moved")
    assert main(["reconstruct", "run", "0"]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert f"there is no {pictures}" in err
    assert "So it is in the run run. If it has moved: data.path=FOLDER." in err
    assert main(["reconstruct", "run", "0", "data.path=moved"]) == 0
