"""The page for the keyboard, for screen readers, in both colour schemes, on a phone."""

import pytest

from tests.app.conftest import visiting
from tests.support.web_page import open_tab, source, take_photograph, wait_for_change

pytestmark = pytest.mark.slow

TABS = ("Edit", "Latents", "Samples", "Between", "Sweep", "Run")
# Gradio gives it a label that its role does not allow.
EMPTY_IMAGE = {"exclude": [[".empty"]]}
SHOWN = {  # what each tab shows when it is ready
    "Edit": "#after img",
    "Latents": "#moved img",
    "Samples": "#draw",
    "Between": "#between img",
    "Sweep": "#sweep-face-3 img",
    "Run": "#run-figure img",
}


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (1280, "dark")])
def test_no_rule_of_wcag_is_broken_and_nothing_is_cut(browser, sweep_url, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with visiting(browser, sweep_url, width, color_scheme=scheme) as page:
        page.add_style_tag(content="* { transition: none !important }")  # colours in between
        for tab in TABS:
            open_tab(page, tab)
            page.wait_for_selector(SHOWN[tab], state="visible")
            found = axe.run(page, EMPTY_IMAGE).response["violations"]
            broken = [(rule["id"], node["html"][:200]) for rule in found for node in rule["nodes"]]
            assert broken == [], tab
            assert page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_a_face_is_edited_by_the_keyboard_alone(visit):
    page = visit()
    plain = source(page, "#after")
    page.keyboard.press("Tab")
    seen = set()
    for _ in range(60):
        focus = "document.activeElement"
        name = page.evaluate(f"{focus}.closest('[id^=attribute-]')?.id")
        if name and page.evaluate(f"{focus}.type") == "range":
            break
        seen.add(page.evaluate(f"{focus}.closest('[id]')?.id"))
        page.keyboard.press("Tab")
    else:
        pytest.fail(f"no slider is reached; there are {seen}")
    assert {"photograph", "take", "keep-detail", "reset"} <= seen
    page.keyboard.press("ArrowRight")
    wait_for_change(page, "#after", plain)
    value = page.input_value(f"#{name} input[type=number]")
    assert float(value) == 0.05


def test_the_camera_takes_a_photograph(visit):
    page = visit()
    before = source(page, "#before")
    take_photograph(page)
    wait_for_change(page, "#before", before)
    assert "square" in page.inner_text("#found")


def test_a_picture_is_pasted(visit):
    page = visit()
    before = source(page, "#before")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate("""async () => {
      const picture = document.querySelector('#reconstruction img')
      const blob = await (await fetch(picture.src)).blob()
      await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })])
    }""")
    page.click("#photograph [aria-label='Paste from clipboard']")
    wait_for_change(page, "#before", before)
    assert page.inner_text("#found")
