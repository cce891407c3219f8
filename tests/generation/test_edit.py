"""`vae edit` on a finished run."""

import json
import math
import os
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from tests.support.data_sets import save_noise
from tests.support.train_command import TINY, call_train
from tests.utils.test_text import HOSTILE
from vae.cli.main import main
from vae.data.base import Labels
from vae.data.synthetic import SyntheticConfig, SyntheticSource
from vae.evaluation.attributes import learn_directions
from vae.evaluation.directions import METHODS
from vae.evaluation.refine import refine_posterior
from vae.generation import figures
from vae.generation.edit import edit
from vae.generation.photos import load_faces
from vae.runs.checkpoint import load_checkpoint, save_checkpoint
from vae.runs.load import SavedRun, load_run
from vae.utils.errors import UserError

NAME = "Eyeglasses"


def learn(run):
    """The directions of a run, kept in its folder as the commands keep them."""
    return learn_directions(run, run.directions_file)


def test_directions_are_learned_on_train_and_tested_on_val(run):
    learned = learn(run)
    names = learned.directions.names
    has, latents = {}, {}
    for split in ("train", "val"):
        labels = run.data.attributes(split)
        has[split] = labels.values[:, [labels.names.index(name) for name in names]] == 1
        images = torch.from_numpy(run.data.images[split].copy()).permute(0, 3, 1, 2) / 255
        with torch.inference_mode():
            latents[split] = run.model.encode(images).mode.double().numpy()
    told = 0
    for row, name in enumerate(names):
        mask, held_out = has["train"][:, row], has["val"][:, row]
        classes = [latents["train"][mask == side].mean(0) for side in (False, True)]
        assert np.allclose(learned.directions.means[row], classes[1] - classes[0], atol=1e-5)
        for method, accuracy in learned.accuracy[name].items():
            way = getattr(learned.directions, method)[row].numpy()
            says = (latents["val"] - np.mean(classes, axis=0)) @ way > 0
            place = np.linalg.solve(np.cov(latents["train"].T), way)
            places = latents["train"] @ place / (way @ place)
            without, having = places[~mask], places[mask]
            low = without.mean() - 2 * without.std(ddof=1)
            high = having.mean() + 2 * having.std(ddof=1)
            limits = learned.directions.limits[METHODS.index(method), row]
            assert limits.tolist() == pytest.approx([low, high], rel=0.05, abs=0.05)
            if 0 < held_out.mean() < 1:
                assert accuracy == pytest.approx(balanced_accuracy_score(held_out, says))
                told += 1
    assert told > 10
    assert "Wearing_Hat" not in names  # no face of the preset `core` has one


@pytest.mark.parametrize("checkpoint", ["last", "best", "ema"])
def test_directions_are_cached_per_checkpoint(checkpoint, finished, monkeypatch, caplog):
    stored = finished / "checkpoints" / f"{'best' if checkpoint == 'best' else 'last'}.pt"
    state = load_checkpoint(stored)
    state["ema"] = {"model": dict(state["model"]), "updates": 1}
    save_checkpoint(stored, state)
    first = learn(load_run("run", checkpoint))
    (file,) = (finished / "directions").iterdir()
    assert file.name == f"{checkpoint}.npz"
    before = file.read_bytes()
    with monkeypatch.context() as none_there:
        none_there.setattr("vae.runs.load.SavedRun.data", None)  # not needed again
        again = learn(load_run("run", checkpoint))
    assert torch.equal(again.directions.normal, first.directions.normal)
    assert str(again.accuracy) == str(first.accuracy)  # with NaN

    file.write_bytes(before[:-40])
    learn(load_run("run", checkpoint))
    assert "damaged" in caplog.text
    assert file.read_bytes() == before  # the same bytes, made again

    weights = state["ema"]["model"] if checkpoint == "ema" else state["model"]
    weights["encoder.mean.weight"] = weights["encoder.mean.weight"] * 1.1
    save_checkpoint(stored, state)
    learn(load_run("run", checkpoint))
    assert file.read_bytes() != before


def test_the_cache_depends_on_images_and_labels(finished, monkeypatch, caplog):
    first = learn(load_run("run")).directions
    read = SyntheticSource.labels

    def others(source, split):
        known = read(source, split)
        names, values = known["attributes"].names, known["attributes"].values
        return known | {"attributes": Labels(names, 1 - values)}

    monkeypatch.setattr(SyntheticSource, "labels", others)
    monkeypatch.setattr("vae.data.synthetic.DRAWING_VERSION", 1000)
    second = learn(load_run("run")).directions
    kept = [first.names.index(name) for name in second.names]
    assert torch.allclose(second.means, -first.means[kept])

    def gone(*config):
        raise UserError("there is nothing")

    with monkeypatch.context() as images_gone:
        images_gone.setattr("vae.evaluation.open_data", gone)
        images_gone.setattr(SyntheticConfig, "source", gone)
        assert torch.equal(learn(load_run("run")).directions.means, second.means)

    nowhere = finished / "summary.json" / "last.npz"  # somebody else's run, say: it is edited
    assert torch.equal(learn_directions(load_run("run"), nowhere).directions.means, second.means)
    assert "directions: cannot be kept" in caplog.text


FORGED = {
    "small": lambda arrays, _: arrays.update(means=arrays["means"][:1, :1]),
    "infinite": lambda arrays, _: arrays.update(normal=arrays["normal"] * np.inf),
    "float32": lambda arrays, _: arrays.update(weights=arrays["weights"].astype(np.float32)),
    "objects": lambda arrays, _: arrays.update(means=arrays["means"].astype(object)),
    "doubled names": lambda _, about: about.update(names=["Male"] * len(about["names"])),
    "no accuracy": lambda _, about: about.update(accuracy={}),
    "one accuracy": lambda _, about: about["accuracy"][NAME].pop("means"),
    "accuracy above 1": lambda _, about: about["accuracy"][NAME].update(means=2.0),
    "infinite limits": lambda arrays, _: arrays.update(limits=arrays["limits"] * np.inf),
    "reversed limits": lambda arrays, _: arrays.update(limits=arrays["limits"][..., ::-1]),
    "limits of one method": lambda arrays, _: arrays.update(limits=arrays["limits"][:1]),
    "few places": lambda arrays, _: arrays.update(places=arrays["places"][..., :1]),
    "a number": lambda arrays, _: arrays.update(about=np.array(7)),
    "large": lambda arrays, _: arrays.update(more=np.zeros(9 << 20)),
    "compressed": lambda *_: None,
}


def test_forged_directions_are_learned_again(run, monkeypatch, caplog):
    first = learn(run)
    before = run.directions_file.read_bytes()
    monkeypatch.setattr("vae.evaluation.attributes._learn", lambda _: first)
    for name, forge in FORGED.items():
        with np.load(run.directions_file) as stored:
            arrays = dict(stored)
        about = json.loads(str(arrays.pop("about")))
        forge(arrays, about)
        with run.directions_file.open("wb") as opened:
            save = np.savez_compressed if name == "compressed" else np.savez
            save(opened, **{"about": np.array(json.dumps(about))} | arrays)
        caplog.clear()
        assert learn(run) is first, name
        assert "last.npz is damaged (" in caplog.text, name
        assert run.directions_file.read_bytes() == before
    run.directions_file.unlink()
    os.mkfifo(run.directions_file)  # is not waited for
    assert learn(run) is first
    assert run.directions_file.read_bytes() == before


def test_directions_of_unknown_attributes_are_refused(run):
    learn(run)
    with np.load(run.directions_file) as stored:
        arrays = dict(stored)
    about = arrays["about"].item().replace("Smiling", "Smi\\u001bng")
    with run.directions_file.open("wb") as opened:
        np.savez(opened, **arrays | {"about": np.array(about)})
    says = r"directions: the images have no attribute 'Smi\\\\x1bng'. Remove .* made again"
    with pytest.raises(UserError, match=says):
        edit(run, learn(run), [], ["Smi\x1bng"], folder=run.folder)


@pytest.mark.parametrize("method", ["normal", "means"])
@pytest.mark.parametrize(
    ("attributes", "parts"), [([NAME], (-1, -0.5, 0.5, 1)), ([NAME, "Smiling"], (1,))]
)
def test_unbounded_edits_move_all_faces_alike(method, attributes, parts, run):
    directions = learn(run).directions
    settings = {"method": method, "unbounded": True, "folder": run.folder}
    made = edit(run, learn(run), ["3", "5"], attributes, -1.5, **settings)
    assert made.applied == dict.fromkeys(["3", "5"], dict.fromkeys(attributes, -1.5))
    faces, _ = load_faces(["3", "5"], run)
    with torch.inference_mode():
        latents = run.model.encode(faces).mode
        for column, (name, part) in enumerate(product(attributes, parts)):
            step = getattr(directions, method)[directions.names.index(name)].float()
            expected = run.model.decode(latents + -1.5 * part * step)
            assert torch.equal(made.images[:, column], expected)


@pytest.mark.parametrize("method", METHODS)
def test_edits_end_within_the_range_of_the_training_faces(method, run, caplog, monkeypatch):
    titles = []
    write = figures.write_table

    def write_table(images, path, *, columns):
        titles.append(columns)
        return write(images, path, columns=columns)

    monkeypatch.setattr(figures, "write_table", write_table)
    monkeypatch.setattr("vae.evaluation.directions.LIMIT", 1.0)  # some faces are beyond it
    caplog.set_level("INFO")
    learned = learn(run)
    directions = learned.directions
    of = METHODS.index(method), directions.names.index(NAME)
    numbers = [str(number) for number in range(40)]
    faces, _ = load_faces(numbers, run)
    with torch.inference_mode():
        latents = run.model.encode(faces).mode
    places = (latents.double() @ directions.places[of]).numpy()
    low, high = directions.limits[of].tolist()
    assert ((places < low) | (places > high)).any()
    for strength in (-3.0, 3.0):
        caplog.clear()
        settings = {"method": method, "folder": run.folder}
        made = edit(run, learned, numbers, [NAME], strength, **settings)
        applied = np.array([made.applied[number][NAME] for number in numbers])
        least, most = np.minimum(low - places, 0), np.maximum(high - places, 0)
        assert np.allclose(applied, np.clip(strength, least, most))
        step = torch.from_numpy(applied).float()[:, None] * getattr(directions, method)[of[1]]
        with torch.inference_mode():
            expected = run.model.decode(latents + step.float())
        assert torch.allclose(made.images[:, -1], expected, atol=1e-5)

        limited = applied != strength
        ends = [f"{round(end, 2) + 0:g}" for end in np.sort(applied[limited])[[0, -1]]]
        says = f"{NAME} {strength:+g}: limited to {' to '.join(ends)} for {limited.sum()} of 40 "
        assert f"{says}faces, by the range of the training faces; --unbounded" in caplog.text
        assert titles[-1][-1] == f"{NAME} {strength:+g} limited"

    caplog.clear()
    room = np.minimum(places - low, high - places)
    inner = [numbers[row] for row in np.argsort(-room)[:3]]
    small = float(np.sort(room)[-3]) / 2
    ours, free = (
        edit(run, learned, inner, [NAME], small, method=method, unbounded=on, folder=run.folder)
        for on in (False, True)
    )
    assert torch.equal(ours.images, free.images)
    assert "limited" not in caplog.text + str(titles[-2:])


@pytest.mark.parametrize(
    ("accuracy", "says"),
    [(0.507, "is 0.507 (chance"), (math.nan, "is unknown (chance"), (0.6, None)],
)
def test_directions_at_chance_are_warned_of(accuracy, says, run, caplog):
    learned = learn(run)
    told = {name: {"normal": accuracy, "means": 0.9} for name in learned.accuracy}
    learned = replace(learned, accuracy=told)
    edit(run, learned, ["2"], [NAME], method="means", folder=run.folder)
    assert "accuracy" not in caplog.text
    edit(run, learned, ["2"], [NAME], folder=run.folder)
    assert caplog.text.count("accuracy") == (says is not None)
    if says:
        assert f"{NAME}: balanced accuracy of its direction is" in caplog.text
        assert says in caplog.text
        assert "--list" in caplog.text


def test_keep_detail_adds_the_reconstruction_residual(run):
    plain = edit(run, learn(run), ["2"], [NAME], 1.0, folder=run.folder)
    kept = edit(run, learn(run), ["2"], [NAME], 1.0, keep_detail=True, folder=run.folder)
    (face,), _ = load_faces(["2"], run)
    with torch.inference_mode():
        rest = face - run.model.decode(run.model.encode(face[None]).mode)[0]
    assert torch.allclose(kept.images[0], (plain.images[0] + rest).clamp(0, 1), atol=1e-6)
    nothing = edit(run, learn(run), ["2"], [NAME], 0.0, keep_detail=True, folder=run.folder)
    assert torch.allclose(nothing.images[0, 0], face, atol=1e-6)


def test_refined_latents_are_edited(run, vae_json, capsys):
    arguments = ["edit", "run", "3", "5", "--attribute", NAME]
    plain, found = vae_json(*arguments), vae_json(*arguments, "--refine", "40")
    for face in ("3", "5"):
        assert found["psnr"][face]["model"] == plain["psnr"][face]["model"]
        assert found["psnr"][face]["refined"] > found["psnr"][face]["model"] + 0.02
    assert main([*arguments, "--refine", "40"]) == 0
    says = "3  psnr {model:5.2f} dB; refined: psnr {refined:5.2f} dB"
    assert says.format(**found["psnr"]["3"]) in capsys.readouterr().out.splitlines()

    faces, _ = load_faces(["3", "5"], run)
    latents = refine_posterior(run.model, faces, 40, generator=torch.Generator().manual_seed(0))
    directions = learn(run).directions
    step = directions.normal[directions.names.index(NAME)].float()
    made = edit(run, learn(run), ["3", "5"], [NAME], 1.5, refine=40, folder=run.folder)
    with torch.inference_mode():
        expected = run.model.decode(latents.mode - 1.5 * step)
    assert torch.allclose(made.images[:, 0], expected, atol=1e-6)


def test_settings_that_change_pictures_change_file_names(finished, vae_json):
    photographs = [str(save_noise(finished.parent / f"me.{kind}")) for kind in ("jpg", "png")]
    chosen = ["--attribute", NAME, "--strength", "2"]
    both = vae_json("edit", "run", *photographs, *chosen)["files"]
    assert both[1:] == [f"run/edited/me.{kind}_{NAME}_+2.png" for kind in ("jpg", "png")]
    alone = vae_json("edit", "run", photographs[0], *chosen)["files"]
    assert alone == [f"run/figures/edit_{NAME}.png", f"run/edited/me_{NAME}_+2.png"]
    assert Path(alone[1]).read_bytes() == Path(both[1]).read_bytes()

    ways = {"means": "--method means", "detail": "--keep-detail", "best": "--checkpoint best"}
    ways["refine-3"] = "--refine 3"
    ways = {"crop-8-0-16": "--crop 8,0,16", "unbounded": "--unbounded", **ways}
    for name, way in ways.items():
        files = vae_json("edit", "run", photographs[0], *chosen, *way.split())["files"]
        assert files[0] == f"run/figures/edit_{NAME}_{name}.png"
        assert files[1] == f"run/edited/me_{NAME}_+2_{name}.png"
    assert vae_json("edit", "run", photographs[0], *chosen)["applied"]["me.jpg"][NAME] <= 2
    every = " ".join(ways.values()).split()
    (_, file) = vae_json("edit", "run", photographs[0], *chosen, *every)["files"]
    assert file == f"run/edited/me_{NAME}_+2_means_detail_unbounded_refine-3_crop-8-0-16_best.png"


def test_attributes_of_any_name_stay_in_the_folder(run, capsys, monkeypatch):
    """Each has a file of its own, on file systems that ignore case, too."""
    learned = learn(run)
    texts = [text for text in HOSTILE if "\udcff" not in text]
    names = ["Wearing", "Hat", "Wearing_Hat", "wearing", *texts]
    names += learned.directions.names[len(names) :]
    named = replace(learned.directions, names=tuple(names[: len(learned.directions.names)]))
    accuracy = dict(zip(named.names, learned.accuracy.values(), strict=True))
    learned = replace(learned, directions=named, accuracy=accuracy)
    photograph = str(save_noise(run.folder.parent / "me.png"))
    before = {path for path in run.folder.parent.rglob("*") if run.folder not in path.parents}
    made = [edit(run, learned, [photograph], [name], folder=run.folder) for name in named.names]
    several = [named.names[:2], named.names]
    made += [edit(run, learned, [photograph], names, folder=run.folder) for names in several]
    files = [str(each.sheet).lower() for each in made]
    files += [str(each.files[0]).lower() for each in made[: len(named.names)]]
    assert len(set(files)) == len(files)
    assert {
        path for path in run.folder.parent.rglob("*") if run.folder not in path.parents
    } == before
    monkeypatch.setattr("vae.evaluation.attributes.learn_directions", lambda *_: learned)
    assert main(["edit", "run", "--list"]) == 0
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize(("strength", "have"), [(1.0, False), (-1.0, True)])
def test_without_inputs_faces_without_the_attribute_are_edited(strength, have, run):
    labels = run.data.attributes("val")
    has = labels.values[:, labels.names.index(NAME)]
    first = [str(number) for number in np.flatnonzero(has == have)[:6]]
    made, expected = (
        edit(run, learn(run), faces, [NAME], strength, folder=run.folder) for faces in ([], first)
    )
    assert torch.equal(made.images, expected.images)
    assert made.files == []


def test_the_list_is_sorted_by_accuracy(run, vae_json, capsys):
    listed = vae_json("edit", "run", "--list")
    accuracy, limits = listed["balanced_accuracy"], listed["strength_limits"]
    known = [row["normal"] for row in accuracy.values() if row["normal"] is not None]
    assert known == sorted(known, reverse=True)
    assert accuracy.keys() == learn(run).accuracy.keys()
    assert main(["edit", "run", "--list"]) == 0
    title, also, columns, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("balanced accuracy of each direction on held-out faces (chance is 0.5)")
    assert "(normal) within the range of the training faces" in also
    assert columns.split() == [
        "normal",
        "means",
        "conditional",
        "without",
        "it",
        "with",
        "it",
        "attribute",
    ]
    row, ranges = accuracy[NAME], limits[NAME]["normal"]
    ranges = ["{:+.1f} to {:+.1f}".format(*ranges[side]) for side in ("without", "with")]
    expected = [*(f"{row[method]:.3f}" for method in METHODS), *" ".join(ranges).split(), NAME]
    assert expected in [line.split() for line in rows]


def few(monkeypatch, **counts):
    """Of some splits there are so many images only."""
    data = load_run("run").data
    fewer = {split: data.images[split][:count] for split, count in counts.items()}
    monkeypatch.setattr(SavedRun, "data", replace(data, images={**data.images, **fewer}))


def test_few_faces_have_no_accuracy_or_no_directions(finished, vae_json, monkeypatch, capsys):
    with monkeypatch.context() as one_held_out:
        few(one_held_out, val=1)
        accuracy = vae_json("edit", "run", "--list")["balanced_accuracy"]
        assert accuracy[NAME] == dict.fromkeys(METHODS)
        assert main(["edit", "run", "--list"]) == 0
    out = capsys.readouterr().out
    assert re.search(rf"     \?       \? .* {NAME}: no held-out face has it, or all", out)

    (finished / "directions" / "last.npz").unlink()
    few(monkeypatch, train=16)
    for arguments in (["--list"], ["--attribute", NAME]):
        assert main(["edit", "run", *arguments]) == 1
        says = "data.num_images: no attribute is on at least 10 of the 16 training images and miss"
        assert f"error: {says}" in capsys.readouterr().err


def test_a_folder_of_pictures_has_no_attributes(pictures, tmp_path, monkeypatch, capsys):
    settings = ["data=folder", f"data.path={pictures}", "hydra.run.dir=run"]
    tiny = [o for o in TINY if not o.startswith("data.num_images")]
    assert call_train([*tiny, *settings], tmp_path, monkeypatch, capsys)[0] == 0
    assert main(["edit", "run", "--list"]) == 1
    assert "nothing is known of the attributes of these images" in capsys.readouterr().err
    pictures.rename(tmp_path / "moved")
    assert main(["reconstruct", "run", "0"]) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert f"there is no {pictures}" in err
    assert "So it is in the run run. If it has moved: data.path=FOLDER." in err
    assert main(["reconstruct", "run", "0", "data.path=moved"]) == 0
