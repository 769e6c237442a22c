"""Chromium without a window, driven by Playwright: for the tests and the benchmark of the page."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Names of Chromium and Chrome on Linux, and Chrome's path on macOS
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# These stop the browser's own requests, so that every request comes from the page.
ARGUMENTS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HOW_TO_INSTALL = "the page is tested in Chromium; install it, on Debian with: apt-get install chromium"


def find() -> str | None:
    """The path of an installed browser, or None."""
    paths = filter(None, map(shutil.which, BROWSERS))
    return next(paths, None)


@contextlib.contextmanager
def launch(path: str) -> Iterator[Any]:
    """A running browser, a playwright.sync_api.Browser. It starts with an empty profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def open_page(context: Any, path: Path, fragment: str = "") -> Any:
    """Opens an explorer page from a file in a browser's context: a playwright.sync_api.Page."""
    page = context.new_page()
    page.goto(path.resolve().as_uri() + fragment)
    return page
