"""The browser that pages are looked at with, where there is one."""

from __future__ import annotations

import shutil
from contextlib import contextmanager

import pytest


@contextmanager
def browser():
    """Chromium, without a window; a test that asks for it is skipped where it is missing."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium to look at the page with: apt-get install chromium")
    with sync.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=chromium)
        try:
            yield launched
        finally:
            launched.close()
