"""Traversal: selected latents, range, labels."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.generation.test_reconstruct import as_bytes
from vae.generation import decode as module
from vae.generation import figures
from vae.generation.decode import traverse
from vae.generation.photos import load_faces
from vae.runs.load import SavedRun, load_run
from vae.utils.errors import UserError


def encode_batches(run, split):
    count = len(run.data.images[split])
    faces, _ = load_faces([str(number) for number in range(count)], run, split)
    with torch.inference_mode():
        return run.model.encode(faces)


def test_rows_are_decoded_moved_latents(finished, monkeypatch):
    run = load_run("run")
    seen = {}
    monkeypatch.setattr(
        figures,
        "write_table",
        lambda images, path, **labels: seen.update(labels, images=images) or path,
    )
    made = traverse(run, "2", count=3, steps=5, split="test", folder=run.folder)
    posterior = encode_batches(run, "test")
    centre = posterior.mean.mean(0)
    spread = (posterior.mean.var(0) + posterior.logvar.exp().mean(0)).sqrt()
    kl = posterior.kl().mean(0)
    assert made.latents == kl.argsort(descending=True)[:3].tolist()
    for row, latent in enumerate(made.latents):
        moved = posterior.mean[2].repeat(5, 1)
        moved[:, latent] = centre[latent] + spread[latent] * torch.tensor([-3, -1.5, 0, 1.5, 3])
        with torch.inference_mode():
            assert torch.allclose(seen["images"][row], run.model.decode(moved), atol=1e-4)
    assert seen["columns"] == ["-3sd", "-1.5sd", "mean", "+1.5sd", "+3sd"]
    activity = ["" if posterior.mean[:, n].var() > 0.01 else ", inactive" for n in range(4)]
    assert seen["rows"] == [f"z{n}: {kl[n]:.1f} nats{activity[n]}" for n in made.latents]
    assert made.files[0].name == "traverse_test_2.png"


def test_the_animation_moves_all_rows(finished):
    run = load_run("run")
    made = traverse(run, "2", count=3, folder=run.folder)
    posterior = encode_batches(run, "val")
    spread = (posterior.mean.var(0) + posterior.logvar.exp().mean(0)).sqrt()
    with Image.open(made.files[1]) as animation:
        for place, sign in [(0, -3), (animation.n_frames // 2, 3)]:
            animation.seek(place)
            pixels = np.asarray(animation.convert("RGB"))[-98:].astype(int)
            moved = posterior.mean[2].repeat(3, 1)
            for row, latent in enumerate(made.latents):
                moved[row, latent] = posterior.mean.mean(0)[latent] + sign * spread[latent]
            with torch.inference_mode():
                expected = as_bytes(run.model.decode(moved)).astype(int)
            for row in range(3):
                face = pixels[3:96:6, 98 * row + 5 : 98 * row + 98 : 6][:16, :16]
                assert np.abs(face - expected[row]).mean() < 5


def test_inactive_latents_are_labelled(finished, monkeypatch):
    run = load_run("run")
    with torch.no_grad():
        run.model.encoder.mean.weight *= 100
        run.model.encoder.mean.weight[2] = 0
    seen = {}
    monkeypatch.setattr(
        figures, "write_table", lambda images, path, **labels: seen.update(labels) or path
    )
    made = traverse(run, count=4, steps=2, folder=run.folder)
    active = dict(zip(made.latents, made.active, strict=True))
    assert active == {0: True, 1: True, 2: False, 3: True}
    said = [row.endswith(" nats, inactive") for row in seen["rows"]]
    assert said == [latent == 2 for latent in made.latents]


def test_only_the_needed_images_are_encoded(finished, monkeypatch):
    run = load_run("run")
    monkeypatch.setattr(module, "RANKING_IMAGES", 10)
    sizes = []
    run.model.encoder.register_forward_hook(lambda _, given, out: sizes.append(len(given[0])))
    made = traverse(run, "2", count=4, folder=run.folder)
    assert sum(sizes) == 11  # with the face
    kl = encode_batches(run, "val").kl()[:10].mean(0)
    assert made.kl == pytest.approx(kl[made.latents].tolist(), rel=1e-4)


def test_a_lone_image_has_no_spread(finished, monkeypatch):
    images = load_run("run").data.images["val"][:1]
    monkeypatch.setattr(SavedRun, "data", SimpleNamespace(images={"val": images}))
    run = load_run("run")
    with pytest.raises(UserError, match="--split: got 'val', but it takes one with two images"):
        traverse(run, folder=run.folder)
