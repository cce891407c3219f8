"""Actions of a visitor on the page, and its content."""

import base64
import io
import json
import re
import secrets

import httpx
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


def take_photograph(page):
    """Take a picture with the camera, once it has one."""
    page.click("#photograph [aria-label='Capture from camera']")
    page.click("#photograph >> text=Click to Access Webcam")
    while not page.evaluate("document.querySelector('#photograph video')?.currentTime > 0"):
        page.wait_for_timeout(50)
    page.click("#photograph [aria-label='capture photo']")


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


class Visitor:
    """A visitor without a browser: calls the page's events as its script does."""

    def __init__(self, url):
        self.client = httpx.Client(base_url=url, timeout=120, trust_env=False)
        self.session = secrets.token_hex(6)
        self.config = self.client.get("/config").json()
        self.parts = {part["id"]: part["props"] for part in self.config["components"]}

    def upload(self, content, name="me.png"):
        """Upload a file, and return the value of a component that names it."""
        answer = self.client.post("/gradio_api/upload", files={"files": (name, content)})
        answer.raise_for_status()
        (path,) = answer.json()
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def event(self, part, kind):
        """The description of the event of a kind, of the component with an elem_id."""
        (number,) = [n for n, props in self.parts.items() if props.get("elem_id") == part]
        return next(e for e in self.config["dependencies"] if [number, kind] in e["targets"])

    def following(self, event):
        """The description of the event that follows another one."""
        return next(e for e in self.config["dependencies"] if e["trigger_after"] == event["id"])

    def inputs(self, event, **values):
        """The inputs of an event, as the page sends them: of states None, of others their value.

        Args:
            values: those that are not as the page begins, by elem_id.
        """
        parts = [self.parts[number] for number in event["inputs"]]
        return [values.get(part.get("elem_id"), part.get("value")) for part in parts]

    def post(self, event, data):
        """Call an event, and return the answer, and whether it was successful."""
        body = {"data": data, "fn_index": event["id"], "session_hash": self.session}
        if not event["queue"]:
            answer = self.client.post("/gradio_api/run/predict", json=body)
            return answer.json(), answer.status_code == 200
        joined = self.client.post("/gradio_api/queue/join", json=body).raise_for_status().json()
        query = {"session_hash": self.session}
        with self.client.stream("GET", "/gradio_api/queue/data", params=query) as lines:
            for line in lines.iter_lines():
                told = json.loads(line.removeprefix("data: ")) if line else {}
                if (
                    told.get("msg") == "process_completed"
                    and joined["event_id"] == told["event_id"]
                ):
                    return told["output"], told["success"]
        raise AssertionError("the event has no answer")

    def call(self, event, **values):
        """Call an event, and return its outputs that are on the page, by elem_id."""
        answer, successful = self.post(event, self.inputs(event, **values))
        assert successful, answer
        names = [self.parts[number].get("elem_id") for number in event["outputs"]]
        return {name: value for name, value in zip(names, answer["data"], strict=True) if name}

    def edit(self, content):
        """Upload a photograph, and return the faces that are shown (`before`, `after`, ...)."""
        event = self.event("photograph", "input")
        self.call(event, photograph=self.upload(content))
        return self.call(self.following(event))
