"""The tab Samples, in a browser."""

import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.app.conftest import serving, visiting
from tests.support.web_page import gallery, move, pixels, source, wait_for_change, wait_for_text
from vae.app.models import AppModel
from vae.cli.main import main as vae
from vae.evaluation.priors import StandardPrior

pytestmark = pytest.mark.slow


def open_samples(page):
    page.get_by_role("tab", name="Samples").click()
    page.wait_for_selector("#draw", state="visible")
    return page


def choose(page, prior, seed=0, temperature=1, number=16):
    """Set the controls."""
    page.check(f"#prior input[value={prior}]")
    page.fill("#seed input", str(seed))
    move(page, "#temperature", temperature)
    move(page, "#samples-number", number)


def shown(page, prior, seed=0, temperature=1, number=16):
    """The samples on the page, as soon as they are those of the settings."""
    of = f"of the prior {prior}, seed {seed}, temperature {temperature}."
    wait_for_text(page, "#samples-said", f"{number} sample{'s' * (number > 1)} {of}")
    images = [pixels(url) for url in gallery(page, "#samples")]
    assert len(images) == number
    return images


def written(run, folder, prior, seed, temperature=1, number=16):
    """The files of `vae sample --separate`."""
    settings = [f"--prior={prior}", f"--seed={seed}", f"--temperature={temperature}"]
    options = [f"--num={number}", "--separate", "--no-gain", f"--out={folder}"]
    assert vae(["sample", str(run), *settings, *options]) == 0
    (files,) = folder.glob("samples_*")
    return [np.asarray(Image.open(file)) for file in sorted(files.iterdir())]


def difference(images, others):
    return np.abs(np.stack(images).astype(int) - np.stack(others)).max()


@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_the_page_draws_what_vae_sample_writes(visit, app_run, tmp_path, prior):
    page = open_samples(visit())
    choose(page, prior, 3, 0.8, 5)
    page.click("#draw")
    images = shown(page, prior, 3, 0.8, 5)
    assert difference(images, written(app_run, tmp_path / "3", prior, 3, 0.8, 5)) <= 1
    page.click("#draw-others")
    others = shown(page, prior, 4, 0.8, 5)
    assert page.input_value("#seed input") == "4"
    assert difference(images, others) > 50
    assert difference(others, written(app_run, tmp_path / "4", prior, 4, 0.8, 5)) <= 1


def test_samples_follow_the_controls_without_a_click(visit):
    page = open_samples(visit())
    choose(page, "standard")
    images = shown(page, "standard")
    assert difference(images[:1], images[1:2]) > 10
    move(page, "#temperature", 0)
    images = shown(page, "standard", temperature=0)
    assert difference(images, images[:1] * 16) <= 1
    move(page, "#samples-number", 1)
    assert len(shown(page, "standard", temperature=0, number=1)) == 1


@pytest.mark.parametrize("by", ["mouse", "keyboard"])
def test_a_chosen_sample_is_edited_with_its_own_latents(visit, by):
    page = open_samples(visit())
    choose(page, "standard", 7)
    sample = shown(page, "standard", 7)[1]
    before = source(page, "#before")
    if by == "mouse":
        page.click("#samples button >> nth=1")
    else:
        page.focus("#draw-others")
        for key in ("Tab", "Tab", "Enter"):
            page.keyboard.press(key)
    wait_for_change(page, "#before", before)
    page.wait_for_selector("#before", state="visible")
    wait_for_change(page, "#reconstruction", before)
    for place in ("#before", "#reconstruction", "#after"):
        assert difference([pixels(source(page, place))], [sample]) <= 1


def test_two_visitors_edit_each_their_own_sample(browser, run_url):
    with visiting(browser, run_url) as one, visiting(browser, run_url) as another:
        before = source(one, "#before")
        for page, seed in ((one, 1), (another, 2)):
            choose(open_samples(page), "standard", seed)
        samples = [shown(page, "standard", seed)[0] for page, seed in ((one, 1), (another, 2))]
        assert difference(samples[:1], samples[1:]) > 10
        for page, sample in zip((one, another), samples, strict=True):
            page.click("#samples button >> nth=0")
            wait_for_change(page, "#before", before)
            assert difference([pixels(source(page, "#before"))], [sample]) <= 1


def test_another_run_draws_the_same_latents(browser, sweep_url, app_sweep, tmp_path):
    with visiting(browser, sweep_url) as page:
        open_samples(page)
        choose(page, "gaussian", 5, number=4)
        page.click("#draw")
        images = shown(page, "gaussian", 5, number=4)
        move(page, "#run", 3)
        wait_for_text(page, "#samples-said", "not fitted yet: press Draw")
        assert gallery(page, "#samples") == []
        page.click("#draw")
        others, first = shown(page, "gaussian", 5, number=4), gallery(page, "#samples")[0]
        move(page, "#run", 1)  # it is fitted already
        wait_for_change(page, "#samples", first)
        assert difference(shown(page, "gaussian", 5, number=4), images) == 0
    assert difference(images, others) > 10
    expected = written(app_sweep / "loss.beta=0.01", tmp_path, "gaussian", 5, 1, 4)
    assert difference(others, expected) <= 1


def test_a_seed_out_of_range_is_explained(visit):
    page = open_samples(visit())
    choose(page, "standard")
    shown(page, "standard")
    expected = "Give a whole number from 0 to 4294967295."
    page.fill("#seed input", str(2**32))
    wait_for_text(page, "#samples-said", f"The seed is 4294967296. {expected}")
    page.fill("#seed input", "")
    wait_for_text(page, "#samples-said", f"The seed is empty. {expected}")
    page.click("#draw")
    wait_for_text(page, ".toast-body", expected)
    assert len(gallery(page, "#samples")) == 16


def test_without_images_only_the_standard_prior_is_drawn(browser, app_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(app_run, run, ignore=shutil.ignore_patterns("directions", "priors"))
    settings = (run / ".hydra" / "hydra.yaml").read_text()
    moved = re.sub(r"(?m)^( +cwd: ).*$", rf"\g<1>{tmp_path}", settings)
    (run / ".hydra" / "hydra.yaml").write_text(moved)
    with serving(run) as (url, _), visiting(browser, url, ready="#photograph") as page:
        open_samples(page)
        assert page.is_checked("#prior input[value=standard]")
        page.click("#draw")
        shown(page, "standard")
        choose(page, "mixture")
        page.click("#draw")
        expected = "fitted to the training images, which are not here. Take the prior standard."
        wait_for_text(page, ".toast-body", expected)
        page.click("#samples button >> nth=2")  # nothing covers the samples
        page.wait_for_selector("#before img")


def test_a_limited_number_of_fits_is_kept(monkeypatch):
    fitted, run = [], SimpleNamespace(flow_file=None)
    monkeypatch.setattr(
        "vae.app.models.fit_prior",
        lambda run, name, seed, flow_file: fitted.append((name, seed)) or StandardPrior(4),
    )
    model = AppModel(0, "a run", run, None)
    for seed in (0, 1, 1, 2):
        model.prior("gaussian", seed)
        model.prior("mixture", seed)
    assert fitted == [("gaussian", 0), ("mixture", 0), ("mixture", 1), ("mixture", 2)]
    for seed in range(3, 100):
        model.prior("mixture", seed)
    assert len(model._priors) < 10
    assert model.fitted_prior("mixture", 99)
    assert model.fitted_prior("mixture", 0) is None
