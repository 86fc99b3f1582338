"""The page in a real browser (Debian's Chromium through Playwright), with the model that ships.

Skipped where no Chromium is installed, unless pytest is told --need-browser, as `.ci/run` does.
"""

from __future__ import annotations

import shutil
from urllib.parse import urlsplit

import pytest


@pytest.fixture(scope="package")
def browser(request):
    path = shutil.which("chromium")
    if path is None:
        if request.config.getoption("--need-browser"):
            pytest.fail("no chromium is installed, and --need-browser was given")
        pytest.skip("no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def app(start_app):
    """The server that these tests share: every page has its own session."""
    app = start_app()
    yield app
    app.stop()


@pytest.fixture
def visit(browser, app, script):
    """`visit(url=app.url, context=None, **options)`: an `app_driver.Page`, in a browser context of its own
    with these options unless one is given. Checks at the end that no other host was asked for and no script failed."""
    app_driver = script("script_helpers.app_driver")
    contexts = []

    def go(url=app.url, context=None, **options):
        if context is None:
            context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)  # a busy machine's browser may take its time
        page.asked, page.errors = set(), []
        page.on("request", lambda r: page.asked.add(urlsplit(r.url).hostname or urlsplit(r.url).scheme))
        page.on("pageerror", lambda e: page.errors.append(f"{e} {e.stack}"))
        return app_driver.visit(page, url)

    yield go
    for context in contexts:
        for page in context.pages:
            assert page.errors == []
            assert page.asked <= {"127.0.0.1", "data", "blob"}
        context.close()
