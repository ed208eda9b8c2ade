"""A headless Chromium for tests of pages: the system's, driven by playwright."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """The path of an installed one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def missing() -> str:
    """Why there is no browser; empty if there is one."""
    if importlib.util.find_spec("playwright") is None:
        return "needs playwright: pip install playwright"
    return "" if find_chromium() else f"needs a browser: none of {', '.join(NAMES)} is installed"


needs_browser = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@contextmanager
def chromium() -> Iterator[Any]:
    """A playwright Browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        root = hasattr(os, "geteuid") and os.geteuid() == 0  # which Chromium's sandbox refuses
        browser = driver.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"] if root else [])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page from disk, with what it did.

    Attributes:
        page: playwright's.
        errors: of the console, and uncaught ones.
        requests: addresses that it asked for.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def said(self, selector: str) -> str:
        return str(self.page.inner_text(selector))


@contextmanager
def opened(browser: Any, path: Path, width: int = 1280, height: int = 900, **options: Any) -> Iterator[Opened]:
    """Load a report and wait until all is drawn."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    made = Opened(context.new_page())
    made.page.on("console", lambda message: made.errors.append(message.text) if message.type != "log" else None)
    made.page.on("pageerror", lambda error: made.errors.append(str(error)))
    made.page.on("request", lambda request: made.requests.append(request.url))
    try:
        made.page.goto(path.resolve().as_uri())
        made.page.wait_for_selector("html[data-drawn]", state="attached")
        yield made
    finally:
        context.close()
