"""HTML reports in a real browser, from disk: nothing is asked of a network, nothing runs, nothing sticks out."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from report.test_report_html import every_page

from sapo.report.html import to_html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
PAGES = ("run", "comparison", "sweep", "study", "hostile")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# What a person sees: how wide the page is, and how large each drawing.
MEASURE = """() => ({
    page: document.documentElement.scrollWidth,
    body: document.body.scrollWidth,
    drawings: [...document.querySelectorAll("svg")].map(svg => {
        const box = svg.getBBox();
        return [svg.getBoundingClientRect().width, box.width, box.height];
    }),
    hacked: "hacked" in window,
    background: getComputedStyle(document.body).backgroundColor,
})"""
HIDDEN = "() => [...document.querySelectorAll('details pre')].filter(cell => !cell.checkVisibility()).length"
HEIGHTS = "() => [...document.querySelectorAll('details pre')].map(table => table.getBoundingClientRect().height)"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("html")
    found = {}
    for name, page in every_page(folder).items():
        found[name] = folder / f"{name}.html"
        found[name].write_text(to_html(page), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield launched
        launched.close()


def overheard(page: Page) -> tuple[list[str], list[str]]:
    """What a page will say on its console, and what it will ask for."""
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    return said, asked


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_is_whole_and_asks_for_nothing(
    width: int, scheme: Literal["light", "dark"], browser: Browser, files: dict[str, Path]
) -> None:
    for name in PAGES:
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said, asked = overheard(page)
        page.goto(files[name].as_uri())
        found = page.evaluate(MEASURE)
        assert (said, asked) == ([], [files[name].as_uri()]), name
        assert found["page"] <= width and found["body"] <= width, name
        assert not found["hacked"], name
        assert len(found["drawings"]) >= 2, name
        assert all(100 < shown < width and wide > 50 and high > 20 for shown, wide, high in found["drawings"]), name
        brightness = sum(map(int, re.findall(r"\d+", found["background"])))
        assert (brightness > 600) == (scheme == "light"), name
        page.close()


def test_a_page_is_printed_with_what_is_folded(browser: Browser, files: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(files["sweep"].as_uri())
    assert page.evaluate(HIDDEN) > 0
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate(HIDDEN) == 0 and min(page.evaluate(HEIGHTS)) > 10
    page.close()
