"""A real browser, and its visits of pages."""

import os
import shutil
from contextlib import contextmanager
from urllib.parse import urljoin

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START = 60  # seconds that a server may take on a busy machine


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, or playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        try:
            chromium = started.chromium.launch(
                executable_path=BROWSER,
                args=[
                    "--no-sandbox",
                    "--disable-background-networking",
                    "--use-fake-device-for-media-stream",
                    "--use-fake-ui-for-media-stream",
                ],
            )
        except playwright.Error as error:
            why = f"no browser: apt install chromium, or playwright install chromium ({error})"
            (pytest.fail if os.environ.get("REQUIRE_BROWSER") else pytest.skip)(why)
        yield chromium
        chromium.close()


@contextmanager
def visiting(browser, url, width=1280, height=900, ready="#after img", **context_options):
    """A visitor's page, once `ready` is there.

    At its end no request has gone elsewhere and no error is on the console.

    Args:
        context_options: of playwright's `new_context`. Its `wait_for_function` needs bypass_csp;
            the page does not.
    """
    options = {"bypass_csp": True, **context_options}
    context = browser.new_context(
        viewport={"width": width, "height": height}, accept_downloads=True, **options
    )
    page = context.new_page()
    elsewhere, errors = [], []
    own = (urljoin(url, "/"), "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(own) else elsewhere.append(r.url))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(1000 * START)
    page.goto(url)
    page.wait_for_selector(ready)
    try:
        yield page
        assert elsewhere == []
        assert errors == []
    finally:
        context.close()
