"""The tab Latents, in a browser."""

import numpy as np
import pytest
import torch

from tests.app.conftest import BETAS, serving, visiting
from tests.support.data_sets import save_noise
from tests.support.train_command import TINY, run_train
from tests.support.web_page import (
    move,
    open_tab,
    pixels,
    slider_value,
    source,
    wait_for_change,
)
from vae.data.loader import to_float
from vae.generation.decode import rank_latents
from vae.runs.load import load_run

pytestmark = pytest.mark.slow

SLIDERS = "[id^=latent-]:visible"


@pytest.fixture(scope="module")
def trained(app_run):
    return load_run(app_run)


def face_latents(run, number):
    """The latents (latent_dim,) of a validation face."""
    picture = to_float(np.array(run.data.images["val"][number])[None], torch.device("cpu"))
    with torch.inference_mode():
        latents = run.model.encode(picture).mode[0]
    return latents.clone()  # one that may be changed


def first_latent(run):
    """The latent of most KL, its label, and its mean and spread over the validation split."""
    kl, aggregate = rank_latents(run, "val")
    latent = int(kl.argmax())
    std = aggregate.covariance.diagonal().sqrt()
    label = f"z{latent}, {kl[latent]:.1f} nats"
    return latent, label, aggregate.mean[latent].item(), std[latent].item()


def assert_decoded(run, latents, url):
    """Check that an image on the page is what the model makes of latents."""
    with torch.inference_mode():
        image = run.model.decode(latents[None])[0]
    expected = (255 * image).permute(1, 2, 0).numpy()
    assert np.abs(expected - pixels(url)).max() <= 1


def open_latents(page):
    open_tab(page, "Latents")
    page.wait_for_selector("#latent-1")
    return source(page, "#moved")


def wait_for_note(page, text):
    page.locator("#latents-note", has_text=text).wait_for()


def test_a_slider_moves_the_latent_of_most_kl(visit, trained):
    page = visit()
    plain = open_latents(page)
    latents = face_latents(trained, 0)
    latent, label, mean, std = first_latent(trained)
    assert page.inner_text("#latent-1 label") == label
    assert page.locator(SLIDERS).count() == 16
    assert plain == source(page, "#unmoved")
    assert_decoded(trained, latents, plain)
    place = slider_value(page, "#latent-1")
    assert place == pytest.approx((latents[latent].item() - mean) / std, abs=0.026)

    move(page, "#latent-1", place + 2.5)
    moved = wait_for_change(page, "#moved", plain)
    latents[latent] += 2.5 * std
    assert_decoded(trained, latents, moved)
    assert source(page, "#unmoved") == plain

    for typed in ("", "9"):  # no number, and one beyond the range
        with page.expect_response(lambda response: response.request.method == "POST") as answer:
            page.fill("#latent-2 input[type=number]", typed)
        assert answer.value.ok
    moved = wait_for_change(page, "#moved", moved)
    page.click("#latents-reset")
    assert wait_for_change(page, "#moved", moved) == plain
    assert slider_value(page, "#latent-1") == place


def test_latents_are_sent_to_edit_and_stay_when_the_visitor_returns(visit, trained):
    page = visit()
    move(page, "#attribute-Black_Hair", 1)
    plain = open_latents(page)
    place = slider_value(page, "#latent-1")
    other = place - 3 if place > 0 else place + 3  # on the slider, which ends at -4 and 4
    move(page, "#latent-1", other)
    moved = wait_for_change(page, "#moved", plain)
    before = source(page, "#before")
    page.click("#latents-send")
    page.locator("#before").wait_for()
    assert wait_for_change(page, "#before", before) == moved
    assert source(page, "#reconstruction") == source(page, "#after") == moved
    assert slider_value(page, "#attribute-Black_Hair") == 0

    assert open_latents(page) == moved
    assert slider_value(page, "#latent-1") == other
    page.click("#latents-reset")
    assert wait_for_change(page, "#moved", moved) == plain

    open_tab(page, "Edit")
    page.fill("#number input", "3")
    page.click("#take")
    wait_for_change(page, "#before", moved)
    open_latents(page)
    wait_for_note(page, "face 3 of the validation split")
    assert_decoded(trained, face_latents(trained, 3), source(page, "#moved"))


def test_any_face_can_be_taken(visit, trained):
    page = visit()
    plain = open_latents(page)
    page.click("#latents-average")
    average = wait_for_change(page, "#moved", plain)
    _, aggregate = rank_latents(trained, "val")
    assert_decoded(trained, aggregate.mean.float(), average)
    values = page.locator(f"{SLIDERS} input[type=number]")
    assert {values.nth(each).input_value() for each in range(16)} == {"0"}
    page.fill("#latents-number input", "5")
    page.click("#latents-take")
    assert_decoded(trained, face_latents(trained, 5), wait_for_change(page, "#moved", average))
    page.click("#latents-take-edit")
    wait_for_note(page, "face 0 of the validation split")
    assert source(page, "#moved") == plain


def test_labels_and_face_follow_the_run(browser, sweep_url, app_sweep):
    runs = [load_run(app_sweep / f"loss.beta={beta}") for beta in BETAS]
    labels = [first_latent(run)[1] for run in runs]
    assert labels[0] != labels[2]
    with visiting(browser, sweep_url) as page:
        plain = open_latents(page)
        assert page.inner_text("#latent-1 label") == labels[0]
        move(page, "#run", 3)
        other = wait_for_change(page, "#moved", plain)
        page.locator("#latent-1 label", has_text=labels[2]).wait_for()
        assert_decoded(runs[2], face_latents(runs[2], 0), other)
        move(page, "#run", 1)
        assert wait_for_change(page, "#moved", other) == plain


def test_there_are_as_many_sliders_as_latents(browser, tmp_path):
    sizes = ["-m", *TINY, "model.latent_dim=3,18", "sweep.name=sizes"]
    done = run_train(sizes, tmp_path)
    assert done.returncode == 0, done.stderr
    with (
        serving(tmp_path / "multirun" / "sizes") as (url, _),
        visiting(browser, url) as page,
    ):
        plain = open_latents(page)
        assert page.locator(SLIDERS).count() == 3
        move(page, "#run", 2)
        larger = wait_for_change(page, "#moved", plain)
        page.wait_for_selector("#latent-16")
        move(page, "#latent-16", -4)
        wait_for_change(page, "#moved", larger)
        move(page, "#run", 1)
        page.locator("#latent-16").wait_for(state="detached")
        assert page.locator(SLIDERS).count() == 3


def test_a_run_without_its_images_says_what_to_do(browser, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(40):
        save_noise(folder / f"{number}.png", seed=number)
    settings = ["data=folder", f"data.path={folder}", "hydra.run.dir=run"]
    done = run_train([*TINY, *settings], tmp_path)
    assert done.returncode == 0, done.stderr
    folder.rename(tmp_path / "moved")
    with (
        serving(tmp_path / "run") as (url, _),
        visiting(browser, url, ready="#photograph") as page,
    ):
        open_tab(page, "Latents")
        wait_for_note(page, "data.path=FOLDER")
        assert not page.locator("#latents-send").is_visible()
        open_tab(page, "Samples")
        page.check("#prior input[value=mixture]")
        page.click("#draw")
        page.locator("text=Take the prior standard").wait_for()
        open_tab(page, "Run")
        page.click("#run-configuration button")
        page.locator("#run-yaml", has_text="image_size").wait_for()
        content = page.content()
        assert "image_size" in content
        assert str(tmp_path) not in content  # a visitor learns no folder of this machine


def test_a_latent_beyond_its_slider_stays_until_the_slider_moves():
    tab = pytest.importorskip("vae.app.latents_tab", exc_type=ImportError)
    mean, std = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 2.0]).double()
    scales = tab.LatentScales([2, 0], [9.0, 8.0], mean, std)
    latents = torch.tensor([0.123, -7.0, 4.0])  # six standard deviations above the mean of z2
    assert scales.places(latents) == [4.0, 0.05]
    assert torch.equal(scales.move(latents, (4.0, 0.05, None)), latents)
    moved = scales.move(latents, (3.0, None))
    assert torch.equal(moved, torch.tensor([0.123, -7.0, 3.5]))
