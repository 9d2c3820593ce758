"""The page in a real browser: filters, sorting, paging, sound, keyboard, both schemes, phone and wide screen.

Needs Chromium and the extra ``browser``. ``PAGE_SCREENSHOTS=DIR`` keeps the screenshots, for people to look at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile

from scripts.page import charts
from scripts.page.render import write_page
from scripts.page.sources import read_sources
from tests.helpers.pages import HOSTILE, make_report
from tests.helpers.tiny_bundle import speech

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WIDTHS, SCHEMES = (400, 1400), ("light", "dark")

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="needs playwright; pip install 'nemotron-ov[browser]'"),
]


_IS_NAMED = """(each) => Boolean(each.ariaLabel || each.labels?.length || each.textContent.trim()
  || each.ariaLabelledByElements?.length)"""

_LOW_CONTRAST = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (each) => {
    for (; each; each = each.parentElement) {
      const colour = numbers(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const low = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim(), each = walker.currentNode.parentElement;
    if (!text || !each.getClientRects().length || each.matches("option, script")) continue;
    const style = getComputedStyle(each);
    const both = [luminance(numbers(each.closest("svg") ? style.fill : style.color)), luminance(behind(each))];
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    if (contrast < 4.5) low.push([each.tagName, each.className, text.slice(0, 30), contrast]);
  }
  return low;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds, two languages with 30 disagreements each, hostile texts, audio inside and beside the page."""
    folder = tmp_path_factory.mktemp("page")
    for number in range(30):
        soundfile.write(folder / f"{number}.wav", speech(1.0, seed=number), 16000)
    words = [f"word{each}" for each in range(12)]
    right = f"{' '.join(words)} {HOSTILE}"
    for language, build, count in (("en-US", "int8", 30), ("de-DE", "int8", 30), ("en-US", "int4", 10)):
        texts = []
        for number in range(count):
            wrong = {0: ["other", *words[1:]], 1: words[number % 5 :], 2: [*words, "more"]}[number % 3]
            texts.append((right, right, f"{' '.join(wrong)} {HOSTILE} {number}"))
        report = make_report(texts, language=language, build=build, audio=folder / "{number}.wav", seconds=1.0)
        report.save(folder / f"{language}-{build}.json")
    hostile = make_report([(HOSTILE, HOSTILE, f"{HOSTILE} x")], language=f"xx{HOSTILE}", hostile=HOSTILE)
    hostile.save(folder / "hostile.json")
    write_page(read_sources([folder]), folder / "page.html", audio_mb=0.5)
    return folder / "page.html"


@dataclass
class Opened:
    """A page with the console's messages and what it asked for."""

    page: Page
    messages: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @property
    def shown(self) -> list[str]:
        """Headings of the utterances that can be seen."""
        return list(self.page.locator("article:visible h3").all_inner_texts())

    @property
    def status(self) -> str:
        return str(self.page.locator("#status").inner_text())


@pytest.fixture(params=[(width, scheme) for width in WIDTHS for scheme in SCHEMES], ids=str)
def opened(browser: Browser, file: Path, request: pytest.FixtureRequest) -> Iterator[Opened]:
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    found = Opened(page)
    page.on("console", lambda message: found.messages.append(message.text))
    page.on("pageerror", lambda error: found.messages.append(str(error)))
    page.on("dialog", lambda dialog: found.messages.append(dialog.message))
    page.on("request", lambda asked: found.asked.append(asked.url))
    page.goto(file.as_uri())
    yield found
    folder = Path(os.environ.get("PAGE_SCREENSHOTS", file.parent))
    page.screenshot(path=folder / f"{width}-{scheme}.png", full_page=True)
    context.close()
    assert found.messages == []
    allowed = file.parent.as_uri()
    assert [url for url in found.asked if not url.startswith((allowed, "data:audio/flac"))] == []


def wait_until(page: Page, holds: Callable[[], bool]) -> None:
    """Playwright's own waiting evaluates text in the page, which the page's policy refuses."""
    for _ in range(200):
        if holds():
            return
        page.wait_for_timeout(50)
    pytest.fail("waited for 10 s in vain")


def test_nothing_is_cut_and_nothing_runs(opened: Opened) -> None:
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = page.evaluate(
        "[...document.querySelectorAll('table, article, figure, form')].filter(each => each.offsetParent"
        " && each.getBoundingClientRect().right > innerWidth + 1).map(each => each.className || each.tagName)"
    )
    assert wide == []
    assert page.locator("script").count() == 2
    assert page.locator("img").count() == 0
    assert opened.asked == [page.url]


def test_labels_of_charts_do_not_lie_on_each_other(opened: Opened) -> None:
    if not charts.can_draw():
        pytest.skip("charts need the extra 'report'")
    overlaps = opened.page.evaluate(
        """() => [...document.querySelectorAll('svg')].filter(svg => svg.getBoundingClientRect().width).flatMap(svg => {
          const boxes = [...svg.querySelectorAll('text')].filter(text => !/rotate/.test(text.getAttribute('transform')))
            .map(text => [text.textContent, text.getBoundingClientRect()]);
          return boxes.flatMap(([one, a], i) => boxes.slice(i + 1).filter(([, b]) =>
            a.left < b.right + 3 && b.left < a.right + 3 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
            .map(([other]) => one + ' / ' + other));
        })"""
    )
    assert overlaps == []


def test_filters_sorting_and_paging(opened: Opened) -> None:
    page = opened.page
    assert opened.status == "61 of 61 utterances; 20 shown"
    assert len(opened.shown) == 20
    page.get_by_role("button", name="Show 20 more of 41").click()
    assert len(opened.shown) == 40
    assert page.evaluate("document.activeElement.tagName") == "H3"
    page.locator("[name=language]").select_option("de-DE")
    assert opened.status == "30 of 61 utterances; 20 shown"
    assert all("de-DE" in heading for heading in opened.shown)
    page.locator("[name=build]").select_option("int4")
    assert opened.status == "0 of 61 utterances; 0 shown"
    page.locator("[name=language]").select_option("")
    assert opened.status == "10 of 61 utterances; 10 shown"
    page.locator("[name=kind]").select_option("deletion")
    assert opened.status == "3 of 61 utterances; 3 shown"  # 1, 4 and 7
    page.get_by_role("button", name="Reset").click()
    wait_until(page, lambda: opened.status.startswith("61"))
    page.locator("[name=sort]").select_option("audio")
    names = [heading.split(" ")[0] for heading in opened.shown]
    names.remove(f"0{HOSTILE}.wav".split(" ")[0])  # order of punctuation is the browser's
    assert names[:3] == ["0.wav", "0.wav", "1.wav"]
    assert names == sorted(names)
    page.locator("[name=search]").fill("OTHER")
    assert opened.status == "20 of 61 utterances; 20 shown"
    page.locator("[name=search]").fill("<script>alert")
    assert opened.status.startswith("61 of 61")


def severities(page: Page) -> Any:
    return page.evaluate(
        "[...document.querySelectorAll('article')].filter(each => each.offsetParent).map(each =>"
        " Math.max(...JSON.parse(each.dataset.differences).map(([, found]) => found.worse)))"
    )


def test_the_most_severe_come_first(opened: Opened) -> None:
    found = severities(opened.page)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


@pytest.mark.parametrize("embedded", [True, False])
def test_recordings_play_one_at_a_time(opened: Opened, embedded: bool) -> None:
    page = opened.page
    while page.locator("#more").is_visible():
        page.locator("#more").click()
    kind = "^=" if embedded else "*="
    value = "data:" if embedded else ".wav"
    players = page.locator(f"audio[src{kind}'{value}']:visible")
    assert players.count() > 2
    for number in range(2):
        players.nth(number).evaluate("each => { each.muted = true; return each.play(); }")
    wait_until(page, lambda: players.nth(1).evaluate("each => each.currentTime > 0.05"))
    assert players.nth(0).evaluate("each => each.paused")
    assert 0.9 < players.nth(1).evaluate("each => each.duration") < 1.1


def test_by_keyboard_alone(opened: Opened) -> None:
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "language"
    page.keyboard.press("d")  # de-DE
    wait_until(page, lambda: opened.status.startswith("30 of 61"))
    seen = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.name || document.activeElement.tagName"))
    assert {"build", "kind", "sort", "search", "BUTTON", "AUDIO", "SUMMARY"} <= seen


def test_everything_has_a_name_for_screen_readers(opened: Opened) -> None:
    page = opened.page
    for role in ("combobox", "searchbox", "button", "table", "article", "img", "region", "navigation"):
        found = page.get_by_role(role).all()
        assert found, role
        assert all(each.evaluate(_IS_NAMED) for each in found[:40]), role
    assert page.get_by_role("deletion").count() > 0
    assert page.get_by_role("insertion").count() > 0


def test_text_can_be_read(opened: Opened) -> None:
    """Contrast of at least 4.5 (WCAG AA) between every text and what lies behind it, charts included."""
    low = opened.page.evaluate(_LOW_CONTRAST)
    assert low == []
