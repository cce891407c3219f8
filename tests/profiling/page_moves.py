"""Time from a slider's move to new pixels on the page, in Chromium.

    python -m tests.profiling.page_moves outputs/DATE/TIME
    python -m tests.profiling.page_moves multirun/SWEEP

Prints milliseconds: median, 95th percentile and maximum of MOVES moves of the first attribute, and
of SWITCHES changes of a sweep's run, from the input event to the next frame after the image has
changed; and seconds from the start of the process to its address, and from there to the page.
"""

import sys
import time

import numpy as np
from playwright.sync_api import sync_playwright

from tests.app.conftest import serving
from tests.support.browser import BROWSER

MOVES, SWITCHES = 100, 20

# Sets a slider, waits until the image is another one and drawn, and returns milliseconds.
MOVE = """
([slider, image, value]) => new Promise(resolve => {
  const input = document.querySelector(`${slider} input[type=range]`)
  const shown = document.querySelector(`${image} img`)
  const before = shown.src, start = performance.now()
  const look = () => shown.src != before && shown.complete
    ? resolve(performance.now() - start)
    : performance.now() - start > 5000 ? resolve(NaN) : requestAnimationFrame(look)
  input.value = value
  input.dispatchEvent(new Event('input', { bubbles: true }))
  requestAnimationFrame(look)
})
"""


def report(name, values):
    values = np.array(values)
    lost = int(np.isnan(values).sum())
    median, p95 = np.nanquantile(values, [0.5, 0.95])
    print(
        f"{name:24} median {median:5.0f}  p95 {p95:5.0f}  max {np.nanmax(values):5.0f} ms", end=""
    )
    print(f"  ({lost} without new pixels)" * bool(lost))


def main(folder):
    started = time.monotonic()
    with serving(folder) as (url, _), sync_playwright() as playwright:
        ready = time.monotonic()
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked = time.monotonic()
        page.goto(url)
        page.wait_for_selector("#after img")
        shown = time.monotonic() - asked
        print(
            f"address after {ready - started:.1f} s, page with its first face {shown:.1f} s later"
        )
        (attribute,) = page.query_selector_all("[id^=attribute-]")[:1]
        slider = f"#{attribute.get_attribute('id')}"
        # small steps, all different, either side of the face
        values = [round(0.05 * (1 + i % 5) * (-1) ** i, 2) for i in range(MOVES)]
        report("slider of Edit", [page.evaluate(MOVE, [slider, "#after", v]) for v in values])
        if page.query_selector("#run"):
            runs = int(page.get_attribute("#run input[type=range]", "max"))
            order = [2 + i % (runs - 1) if i % 2 == 0 else 1 for i in range(SWITCHES)]
            times = [page.evaluate(MOVE, ["#run", "#reconstruction", run]) for run in order]
            report("run of a sweep, in Edit", times)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
