"""The web page in a real browser with a real service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from service.student.shipped import SHIPPED_STUDENTS
from tests.service.browser import Browser, Sentence, running_browser
from tests.service.conftest import write_student
from tests.service.server import Server

AGREED = Sentence("weck mich am freitag um neun uhr auf", "de-DE")
# the shipped students find different slots in it
DISPUTED = Sentence("remind me about the second season of dark at half past", "en-US")
LONG_WORD = "donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichen"
MIN_CONTRAST = 4.5  # WCAG 2.2, level AA
KEY = "a-key-of-this-test-alone"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser, whose console must have no warnings after the test."""
    chromium.emulate()
    yield chromium
    assert chromium.warnings() == []


@pytest.fixture(scope="module")
def server(chromium: Browser) -> Iterator[Server]:
    """A service with the shipped students; not started without a browser."""
    with Server("--students", str(SHIPPED_STUDENTS)) as server:
        yield server


def compare(server: Server, sentence: Sentence) -> dict[str, Any]:
    """The service's comparison of a sentence."""
    comparison: dict[str, Any] = json.loads(server.ask("POST", "/v1/compare", sentence._asdict()).content)
    return comparison


def percent(confidence: float) -> str:
    return f"{confidence * 100:.1f} %"


def test_students_are_compared_with_the_keyboard_alone(browser: Browser, server: Server) -> None:
    browser.open(server, locale=AGREED.locale)

    browser.tab_to("text")
    browser.type(AGREED.text)
    browser.tab_to("compare")
    assert browser.label("compare") == "Compare both side by side"
    browser.press(Keys.SPACE)

    cards = browser.wait_for_cards(AGREED.text)
    assert browser.text("agreement") == "Both agree."
    assert browser.text("tasks").split() == ["✓", "domain", "✓", "intent", "✓", "slots"]
    for card, (name, answer) in zip(cards, compare(server, AGREED)["results"].items(), strict=True):
        domain, intent, *slots = card["facts"]
        assert card["name"] == name
        assert card["badges"] == [answer["model"]["precision"], "in scope"]
        assert (domain["value"], domain["share"]) == (answer["domain"]["name"], percent(answer["domain"]["confidence"]))
        assert (intent["value"], intent["share"]) == (answer["intent"]["name"], percent(answer["intent"]["confidence"]))
        expected = [(slot["name"], slot["value"], percent(slot["confidence"])) for slot in answer["slots"]]
        assert [(slot["task"], slot["value"], slot["share"]) for slot in slots] == expected
        assert [(mark["slot"], mark["value"]) for mark in card["marks"]] == [slot[:2] for slot in expected]
        assert all(fact["filled"] > 0 and not fact["odd"] for fact in card["facts"])


def test_enter_repeats_the_request(browser: Browser, server: Server) -> None:
    browser.open(server, **AGREED._asdict())
    before = browser.text("identity")

    browser.tab_to("text")
    browser.press(Keys.END, Keys.ENTER)

    browser.wait(lambda: browser.text("identity") not in ("", before))
    assert browser.run("return document.getElementById('text').value") == AGREED.text


def test_comparison_can_be_turned_off(browser: Browser, server: Server) -> None:
    browser.open(server, **AGREED._asdict(), compare="all")
    assert browser.text("domain") == ""

    browser.tab_to("compare")
    browser.press(Keys.SPACE)

    browser.wait(lambda: browser.text("domain") == "alarm")
    assert browser.text("agreement") == ""
    assert "compare" not in browser.run("return location.hash")


def test_a_slot_has_one_colour_with_all_students(browser: Browser, server: Server) -> None:
    browser.open(server, **AGREED._asdict(), compare="all")

    cards = browser.cards()
    colours = {(mark["slot"], mark["colour"]) for card in cards for mark in card["marks"]}
    assert len(colours) == len({slot for slot, _ in colours}) == 2
    assert len({colour for _, colour in colours}) == 2
    assert {(fact["task"], fact["colour"]) for card in cards for fact in card["facts"] if fact["colour"]} == colours


def test_bars_show_times_on_one_scale(browser: Browser, server: Server) -> None:
    browser.open(server, **AGREED._asdict(), compare="all")

    times = [card["time"] for card in browser.cards()]
    slowest = max(times, key=lambda time: float(time["total"]))
    for time in times:
        assert time["width"] > 0
        assert len(time["phases"]) == 4
        assert all(width > 0 for width in time["phases"])
        assert time["width"] / slowest["width"] == pytest.approx(time["total"] / slowest["total"], abs=0.05)
    assert browser.text("times-head").split() == ["student", "queue", "tokenize", "inference", "decode", "total"]


def test_differing_and_missing_slots_are_marked(browser: Browser, server: Server) -> None:
    comparison = compare(server, DISPUTED)
    assert comparison["agreement"] == {"domain": True, "intent": True, "slots": False, "exact": False}

    browser.open(server, **DISPUTED._asdict(), compare="all")

    assert browser.text("agreement") == "Both agree on domain and intent, not on slots."
    assert "≠ slots" in browser.text("tasks")
    cards = browser.cards()
    for card, other in zip(cards, reversed(cards), strict=True):
        found = comparison["results"][card["name"]]["slots"]
        odd = comparison["differences"]["slots"][card["name"]]
        gaps = [
            slot
            for slot in comparison["differences"]["slots"][other["name"]]
            if not any(mine["start"] < slot["end"] and slot["start"] < mine["end"] for mine in found)
        ]
        assert odd
        assert gaps
        expected = [(slot["name"], slot["value"], "≠ differs" if slot in odd else None) for slot in found]
        expected += [(slot["name"], slot["value"], "≠ missing") for slot in gaps]
        assert [(fact["task"], fact["value"], fact["odd"]) for fact in card["facts"][2:]] == expected
        assert [mark["line"] for mark in card["marks"]] == ["dashed" if slot in odd else "none" for slot in found]


def test_the_page_fits_a_phone(browser: Browser, server: Server) -> None:
    browser.emulate(phone=True)

    browser.open(server, text=f"{DISPUTED.text} {LONG_WORD}", locale=DISPUTED.locale, compare="all")

    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    assert len({card["top"] for card in browser.cards()}) == 2
    browser.emulate()
    assert len({card["top"] for card in browser.cards()}) == 1


def test_contrast_is_high_enough_in_light_and_dark(browser: Browser, server: Server) -> None:
    grounds = set()
    for scheme in ("light", "dark"):
        browser.emulate(scheme)
        for view in ({}, {"compare": "all"}):
            browser.open(server, **DISPUTED._asdict(), **view)
            contrasts = browser.contrasts()
            assert {"calendar_set", "half past"} <= {text for text, _ in contrasts}
            assert [(text, found) for text, found in contrasts if found < MIN_CONTRAST] == []
            grounds.add(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2


def test_errors_of_students_and_an_unreachable_service_are_shown(
    browser: Browser, students: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(students, tmp_path / "students")  # `german` knows no Italian
    write_student(folder / "gate", name="gate", heads=("domain",))
    with Server("--students", str(folder)) as server:
        browser.open(server, text="che tempo fa domani a roma", locale="it-IT", compare="all")

        assert browser.label("compare") == "Compare all 3 side by side"
        assert browser.text("agreement") == "2 of 3 students could answer. Both agree."
        cards = {card["name"]: card for card in browser.cards()}
        assert cards["german"]["problem"].startswith("Not answered: ")
        assert "de-DE" in cards["german"]["problem"]
        assert [fact["value"] for fact in cards["gate"]["facts"]] == ["weather", *["not answered by this student"] * 2]
        assert [fact["value"] for fact in cards["s"]["facts"]] == ["weather", "weather_query", "domani", "roma"]

        server.stop()
        browser.tab_to("text")
        browser.type("che tempo fa a roma")
        browser.wait(lambda: "can't be reached" in browser.text("notice"))

    assert browser.run("return document.getElementById('notice').getAttribute('role')") == "status"
    assert browser.text("students") == browser.text("agreement") == ""
    assert all("ERR_CONNECTION" in warning for warning in browser.warnings())


def test_page_asks_for_a_key_and_does_not_compare_a_single_student(
    browser: Browser, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(KEY)
    with Server("--students", str(folder.parent), "--api-keys-file", str(tmp_path / "keys")) as server:
        browser.open(server, **AGREED._asdict(), compare="all")
        assert browser.text("notice") == "This service needs an API key."
        assert all("401" in warning for warning in browser.warnings())

        browser.tab_to("key")
        browser.type(KEY)

        browser.wait(lambda: browser.text("domain") == "alarm")
        assert browser.text("several") == browser.text("agreement") == browser.text("notice") == ""


def test_only_the_page_itself_may_run_scripts_and_styles(browser: Browser, server: Server) -> None:
    browser.open(server)

    browser.run("document.body.setAttribute('style', 'color: red')")

    (warning,) = browser.warnings()
    assert "Content Security Policy" in warning
