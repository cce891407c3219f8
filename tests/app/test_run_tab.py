"""The tab Run, in a browser."""

import json
import re
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.app.conftest import BETAS, serving, visiting
from tests.support.web_page import open_tab, pixels, source, wait_for_change, wait_for_text
from vae.utils.registry import find_metric

pytestmark = pytest.mark.slow

HOSTILE = "<img src=x onerror=alert(1)>"
LINK = "[link](javascript:alert(2))"


def table(page, selector):
    """The rows of a table, lists of texts, by their first cell."""
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    rows = page.eval_on_selector_all(f"{selector} tr", script)
    return {row[0]: row[1:] for row in rows}


# The editor holds all lines, and the page only those near the visible ones.
WHOLE_TEXT = """() => {
    const content = document.querySelector("#run-yaml .cm-content");
    return (content.cmView ?? content.cmTile).view.state.doc.toString();
}"""


def test_it_shows_what_the_run_is(visit, app_run):
    page = visit()
    open_tab(page, "Run")
    wait_for_text(page, "#run-headline", app_run.name)
    summary = json.loads((app_run / "summary.json").read_text())
    rows = table(page, "#run-metrics")
    for key, value in summary["final"].items():
        assert rows[key][-1] == find_metric(key).format(value)

    page.click("#run-configuration button")
    wait_for_text(page, "#run-yaml", "latent_dim:")
    configuration = yaml.safe_load(page.evaluate(WHOLE_TEXT))
    assert configuration["loss"]["beta"] == float(BETAS[0])

    page.wait_for_selector("#run-curve img")
    last = find_metric("val/bpd").format(summary["final"]["val/bpd"])
    assert f"{last} at step {summary['step']}" in page.get_attribute("#run-curve img", "alt")
    before = source(page, "#run-figure")
    page.click("#run-figures label:has-text('traversal')")
    shown = wait_for_change(page, "#run-figure", before)
    with Image.open(app_run / "figures" / "traversal.png") as expected:
        assert np.array_equal(pixels(shown), np.asarray(expected.convert("RGB")))


def test_text_from_a_run_is_shown_and_never_run(browser, app_run, tmp_path):
    run = tmp_path / HOSTILE
    shutil.copytree(app_run, run)
    metrics = {
        f"val/{HOSTILE}": {"value": 0.5, "n": HOSTILE, "split": LINK, "seed": 0},
        LINK: {"value": HOSTILE},
        "val/psnr": {"value": 21.25, "n": 300, "split": "val", "seed": 0},
    }
    record = {"checkpoint": LINK, "step": 5, "metrics": metrics}
    (run / "metrics.json").write_text(json.dumps(record))
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 999, HOSTILE: 1.0}) + "\n")
    (run / "figures" / "samples.png").write_bytes(b"GIF89a" + bytes(100))
    (run / "figures" / "latents.png").unlink()
    dialogs = []
    with serving(run) as (url, _), visiting(browser, url) as page:
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        open_tab(page, "Run")
        wait_for_text(page, "#run-headline", HOSTILE)
        assert HOSTILE in page.inner_text("h1")
        rows = table(page, "#run-metrics")
        assert rows[f"val/{HOSTILE}"] == ["0.5", HOSTILE, LINK, "0"]
        assert rows[LINK][0] == HOSTILE
        assert LINK in page.inner_text("#run-metrics")
        page.click("#run-curve-key input")
        wait_for_text(page, "body", HOSTILE)
        page.click(f"[role=option]:has-text({json.dumps(HOSTILE)})")
        page.wait_for_selector("#run-curve img[alt*='onerror']")
        for name, problem in (("samples", "not a PNG"), ("latents", "no figures/latents.png")):
            page.click(f"#run-figures label:has-text('{name}')")
            wait_for_text(page, "#run-missing", problem)
            assert not page.query_selector("#run-figure img")
        assert page.query_selector_all("img[src=x], [onerror], a[href^=javascript]") == []
    assert dialogs == []
    assert not re.search(r"\\", rows[LINK][0])
