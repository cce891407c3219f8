"""The tab Between two faces, in a browser."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial import geometric_slerp

from tests.app.conftest import BETAS, visiting
from tests.support.web_page import move, pixels, source, wait_for_change
from vae.app.models import AppModel
from vae.cli.main import main as vae
from vae.generation.photos import load_faces
from vae.runs.load import load_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(app_run):
    return load_run(app_run)


@pytest.fixture
def photograph(trained, tmp_path):
    """Validation face 5 as a file, enlarged."""
    file = tmp_path / "me.png"
    Image.fromarray(np.array(trained.data.images["val"][5])).resize((160, 160)).save(file)
    return file


def open_tab(page):
    page.get_by_role("tab", name="Between").click()
    page.wait_for_selector("#between img")


def take(page, face, number):
    before = source(page, f"#{face}")
    page.fill(f"#{face}-number input", str(number))
    page.click(f"#{face}-take")
    return wait_for_change(page, f"#{face}", before)


def download_gif(page, path):
    page.click("#animate")
    page.wait_for_selector("#animation img[src^='data:image/gif']")
    with page.expect_download() as download:
        page.click("#animation [aria-label=Download]")
    assert download.value.suggested_filename.endswith(".gif")
    download.value.save_as(path)
    return path.read_bytes()


@torch.inference_mode()
def encoded(trained, faces):
    """The posterior means (n, latent_dim) of files, or of numbers of validation faces."""
    return trained.model.encode(load_faces(faces, trained)[0]).mode.numpy()


@torch.inference_mode()
def decoded(trained, latents):
    (image,) = trained.model.decode(torch.from_numpy(np.float32(latents))[None])
    return image.permute(1, 2, 0).numpy() * 255


def on_arc(start, end, place):
    """The direction turns by scipy's formula; the length goes evenly."""
    ends = np.stack([start, end]).astype(float)
    lengths = np.linalg.norm(ends, axis=1)
    return geometric_slerp(*(ends / lengths[:, None]), place) * np.interp(place, [0, 1], lengths)


def assert_shows(page, selector, expected):
    assert np.abs(pixels(source(page, selector)) - expected).max() <= 1


def test_the_slider_leads_from_a_to_b_on_a_line_and_on_an_arc(visit, trained):
    start, end = encoded(trained, ["0", "1"])
    page = visit()
    open_tab(page)
    assert_shows(page, "#a", decoded(trained, start))
    assert_shows(page, "#b", decoded(trained, end))
    middle = source(page, "#between")
    line, arc = decoded(trained, (start + end) / 2), decoded(trained, on_arc(start, end, 0.5))
    assert np.abs(line - arc).max() > 3
    assert_shows(page, "#between", line)
    page.check("#way input[value=spherical]")
    turned = wait_for_change(page, "#between", middle)
    assert_shows(page, "#between", arc)
    move(page, "#place", 30)
    other = wait_for_change(page, "#between", turned)
    assert_shows(page, "#between", decoded(trained, on_arc(start, end, 0.3)))
    move(page, "#place", 0)
    at_a = wait_for_change(page, "#between", other)
    assert at_a == source(page, "#a")
    move(page, "#place", 100)
    at_b = wait_for_change(page, "#between", at_a)
    assert at_b == source(page, "#b")
    page.click("#place [aria-label='Reset to default value']")
    assert wait_for_change(page, "#between", at_b) == turned


def test_the_animation_is_the_file_of_vae_interpolate(
    visit, trained, photograph, app_run, tmp_path
):
    page = visit()
    open_tab(page)
    take(page, "a", 3)
    found = take(page, "b", 7)
    assert vae(["interpolate", str(app_run), "3", "7", "--method=linear", f"--out={tmp_path}"]) == 0
    (written,) = (tmp_path / "figures").glob("*.gif")
    assert download_gif(page, tmp_path / "line.gif") == written.read_bytes()

    page.check("#way input[value=spherical]")
    page.wait_for_selector("#animation img", state="detached")
    page.set_input_files("#b-photograph input[type=file]", photograph)
    wait_for_change(page, "#b", found)
    assert page.inner_text("#b-found")
    assert_shows(page, "#b", decoded(trained, encoded(trained, [str(photograph)])[0]))
    out = tmp_path / "arc"
    way = ["--method=spherical", f"--out={out}"]
    assert vae(["interpolate", str(app_run), "3", str(photograph), *way]) == 0
    (written,) = (out / "figures").glob("*.gif")
    assert download_gif(page, tmp_path / "arc.gif") == written.read_bytes()


def test_the_face_between_goes_to_edit_and_back_with_its_latents(visit):
    page = visit()
    open_tab(page)
    before, middle = source(page, "#before"), source(page, "#between")
    move(page, "#place", 40)
    sent = wait_for_change(page, "#between", middle)
    page.click("#send-between")
    page.wait_for_selector("#before", state="visible")
    assert wait_for_change(page, "#before", before) == sent
    assert source(page, "#reconstruction") == sent  # the model encodes it to other latents
    assert source(page, "#after") == sent
    open_tab(page)
    former = source(page, "#b")
    page.click("#b-edit")
    assert wait_for_change(page, "#b", former) == sent


def test_another_run_encodes_both_faces(browser, sweep_url, app_sweep):
    run = load_run(app_sweep / f"loss.beta={BETAS[-1]}")
    start, end = encoded(run, ["2", "1"])
    with visiting(browser, sweep_url) as page:
        open_tab(page)
        before = take(page, "a", 2)
        move(page, "#run", len(BETAS))
        wait_for_change(page, "#a", before)
        assert_shows(page, "#a", decoded(run, start))
        assert_shows(page, "#between", decoded(run, (start + end) / 2))
        assert_shows(page, "#b", decoded(run, end))


def test_a_number_without_a_face_is_told(visit, trained):
    page = visit()
    open_tab(page)
    last = len(trained.data.images["val"]) - 1
    page.fill("#b-number input", str(last + 1))
    page.click("#b-take")
    page.get_by_text(f"There are faces 0 to {last} in the validation split.").wait_for()


@torch.inference_mode()
def test_faces_encoded_together_equal_a_batch(trained):
    model = AppModel(0, "", trained, None)
    pictures, _ = load_faces([str(number) for number in range(8)], trained)
    faces = [model.encode(picture, "") for picture in pictures]
    alone = torch.stack([face.latents for face in faces])
    batch = trained.model.encode(pictures).mode
    assert torch.equal(model.encoded_together(*faces), batch)
    sample = model.decoded(torch.ones_like(alone[0]), "")
    assert torch.equal(
        model.encoded_together(faces[0], sample), torch.stack([alone[0], sample.latents])
    )


def test_an_empty_number_field_stops_nothing(browser, sweep_url):
    with visiting(browser, sweep_url) as page:
        open_tab(page)
        page.fill("#place input[type=number]", "")
        a = source(page, "#a")
        move(page, "#run", 3)
        wait_for_change(page, "#a", a)
        middle = source(page, "#between")
        page.fill("#place input[type=number]", "150")  # taken as 100
        assert wait_for_change(page, "#between", middle) == source(page, "#b")
