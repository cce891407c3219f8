"""What a visitor does on the page, and sees there."""

import base64
import io
import re

import numpy as np
from PIL import Image


def move(page, selector, value):
    """Move a slider: what dragging it to a value does."""
    page.eval_on_selector(
        f"{selector} input[type=range]",
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', { bubbles: true })) }",
        value,
    )


def wait_for_change(page, selector, before):
    """Wait until an image's pixels are other ones, and return its URL."""
    script = "([s, before]) => { const e = document.querySelector(s); return e && e.src != before }"
    page.wait_for_function(script, arg=[f"{selector} img", before])
    return source(page, selector)


def source(page, selector):
    """The URL of an image on the page: all of it, as data."""
    return page.get_attribute(f"{selector} img", "src")


def pixels(url):
    """The pixels of an image in a data URL, (height, width, 3) uint8."""
    head, _, data = url.partition(",")
    assert head in ("data:image/png;base64", "data:image/gif;base64")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))


def open_tab(page, title):
    """Open a tab, as a click on its title does."""
    page.get_by_role("tab", name=title, exact=True).click()


def slider_value(page, selector):
    """The number beside a slider."""
    return float(page.input_value(f"{selector} input[type=number]"))


def gallery(page, selector):
    """The URLs of a gallery's images, in order: each all of it, as data."""
    return [image.get_attribute("src") for image in page.query_selector_all(f"{selector} img")]


def wait_for_text(page, selector, text):
    """Wait until an element's text holds `text`."""
    script = "([s, text]) => document.querySelector(s)?.innerText.includes(text)"
    page.wait_for_function(script, arg=[selector, text])


def caption_figure(caption, unit):
    """The number before a unit: 24.8 of "552 nats, 24.8 dB"."""
    return float(re.search(rf"([\d.]+)\s{unit}\b", caption)[1])
