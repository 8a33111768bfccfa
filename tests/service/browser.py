"""A real Chromium with the web page of a service, used by keyboard and read by scripts."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.service.server import PATIENCE, Server

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --no-proxy-server --window-size=1100,1000"
)
MAX_STOPS = 30  # of the tab key on one round of the page

CARDS = """
const width = (element) => element?.getBoundingClientRect().width ?? 0;
const colour = (element) => element && getComputedStyle(element).backgroundColor;
return [...document.querySelectorAll(".student")].map((card) => {
  const one = (selector, within = card) => within.querySelector(selector);
  const all = (selector, read, within = card) => [...within.querySelectorAll(selector)].map(read);
  const name = one("h2").firstChild.textContent;
  const times = [...document.querySelectorAll("#times-rows tr")].find((row) => row.cells[0].textContent === name);
  return {
    name,
    top: card.getBoundingClientRect().top,
    badges: all("h2 .badge", (badge) => badge.textContent),
    problem: one(".problem")?.textContent,
    sentence: one(".sentence")?.textContent,
    marks: all("mark", (mark) => ({
      slot: mark.title,
      value: mark.textContent,
      colour: colour(mark),
      line: getComputedStyle(mark).borderBottomStyle,
    })),
    facts: all(".facts li", (line) => ({
      task: one(".task", line).textContent,
      value: one(".value", line).firstChild.textContent,
      odd: one(".badge", line)?.textContent,
      share: one(".number", line)?.textContent,
      filled: width(one(".fill", line)),
      colour: colour(one(".swatch", line)),
    })),
    time: times && {
      total: parseFloat(one(".sum", times).textContent),
      width: width(one(".stack", times)),
      phases: all(".stack div", width, times),
    },
  };
});
"""

CONTRASTS = """
const brush = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
function rgba(colour) {
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = colour;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data];
}
function behind(element) {
  const colour = rgba(getComputedStyle(element).backgroundColor);
  return colour[3] === 255 ? colour : behind(element.parentElement);
}
function luminance(colour) {
  const linear = colour.map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}
const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
return [...document.body.querySelectorAll("*")]
  .filter((element) => element.checkVisibility() && !element.matches("script, option, :disabled"))
  .filter((element) => [...element.childNodes].some(isText) || element.matches("textarea, select"))
  .map((element) => {
    const [low, high] = [rgba(getComputedStyle(element).color), behind(element)].map(luminance).sort((a, b) => a - b);
    return [element.textContent, (high + 0.05) / (low + 0.05)];
  });
"""


class Sentence(NamedTuple):
    """A text in a language."""

    text: str
    locale: str


class Browser:
    """A browser with the page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, server: Server, **request: str) -> None:
        """Open the page of a service, with a request in its address, and wait until it shows an answer or a notice."""
        self._driver.get(f"http://127.0.0.1:{server.port}/?{urlencode(request)}")
        self.wait(lambda: self.text("identity") or self.text("notice"))

    def run(self, script: str, *arguments: object) -> Any:
        """The value that a script returns."""
        return self._driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds."""
        WebDriverWait(self._driver, PATIENCE, poll_frequency=0.02).until(lambda _: condition())

    def emulate(self, scheme: str = "light", phone: bool = False) -> None:
        """Emulate a colour scheme, and the screen of a desktop or a phone."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        width, height = (360, 740) if phone else (1100, 1000)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def text(self, name: str) -> str:
        """The text of an element by its id, "" if it is hidden."""
        script = (
            "const found = document.getElementById(arguments[0]); return found.checkVisibility() ? found.innerText : ''"
        )
        return str(self.run(script, name))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        ActionChains(self._driver).send_keys(*keys).perform()

    def press_with(self, modifier: str, key: str) -> None:
        """Press a key while another is held."""
        ActionChains(self._driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def focus(self) -> tuple[str, bool]:
        """The id of the element with the focus, and whether the focus is visible."""
        script = "const found = document.activeElement; return [found.id, getComputedStyle(found).outlineStyle]"
        name, outline = self.run(script)
        return name, outline != "none"

    def label(self, name: str) -> str:
        """The accessible name of an element, by its id."""
        return self._driver.find_element(By.ID, name).accessible_name

    def tab_to(self, name: str) -> None:
        """Move to an element with the tab key; the focus must be visible at every stop."""
        for _ in range(MAX_STOPS):
            self.press(Keys.TAB)
            focused, visible = self.focus()
            assert visible, f"the focus of {focused or 'an element'} is not visible"
            if focused == name:
                return
        raise AssertionError(f"the tab key does not reach {name}")

    def type(self, text: str) -> None:
        """Replace the text of the field that has the focus."""
        self.press_with(Keys.CONTROL, "a")
        self.press(text)

    def cards(self) -> list[dict[str, Any]]:
        """The students' cards of the comparison; widths are in pixels."""
        cards: list[dict[str, Any]] = self.run(CARDS)
        return cards

    def wait_for_cards(self, text: str) -> list[dict[str, Any]]:
        """Wait until the students are compared on this text."""
        self.wait(lambda: any(card["sentence"] == text for card in self.cards()))
        return self.cards()

    def contrasts(self) -> list[tuple[str, float]]:
        """Each visible text with its contrast to its background, as defined by WCAG."""
        return [(text, contrast) for text, contrast in self.run(CONTRASTS)]

    def warnings(self) -> list[str]:
        """The warnings and errors in the browser's console since the last call."""
        log = self._driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] in ("WARNING", "SEVERE")]


@contextmanager
def running_browser(profile: Path) -> Iterator[Browser]:
    """Start a browser with an empty profile. Skips the test where none is installed."""
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with its driver on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, Service(executable_path=driver)) as chrome:  # with its path, nothing is downloaded
        yield Browser(chrome)
