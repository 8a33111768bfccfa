"""The command ``distilled-nlu data check``."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distilled_nlu.cli import main
from training.check.findings import KINDS

ROW = {"locale": "en-US", "partition": "train", "domain": "home", "intent": "lights_on", "text": "lights on"}


@pytest.fixture
def contradictory(tmp_path: Path) -> Path:
    """Data with one contradiction and one leak."""
    rows = [
        ROW,
        {**ROW, "text": "Lights on!", "intent": "lights_off"},
        {**ROW, "text": "lights <b>off</b>", "intent": "lights_off"},
        {**ROW, "text": "lights <b>off</b>", "intent": "lights_off", "partition": "test"},
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
    return file


def last_line(text: str) -> dict[str, object]:
    line: dict[str, object] = json.loads(text.splitlines()[-1])
    return line


def test_the_report_names_places_and_what_to_do(contradictory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(contradictory)]) == 0

    shown = capsys.readouterr().out
    assert "intent lights_on (1) / lights_off (1)" in shown
    assert "intent lights_off: 'Lights on!'  data.jsonl:2 (id 1, en-US, train)" in shown
    assert KINDS["contradictions"].advice in shown
    assert shown.index(KINDS["contradictions"].title) < shown.index(KINDS["rare_intents"].title)


@pytest.mark.parametrize(
    ("kinds", "code", "failed"),
    [
        ("label_variants", 0, []),
        ("contradictions,label_variants", 1, ["contradictions"]),
        ("leaks, contradictions", 1, ["leaks", "contradictions"]),
    ],
)
def test_fail_on_sets_the_exit_code(
    contradictory: Path, capsys: pytest.CaptureFixture[str], kinds: str, code: int, failed: list[str]
) -> None:
    assert main(["data", "check", str(contradictory), "--fail-on", kinds]) == code

    assert last_line(capsys.readouterr().out)["failed"] == failed


def test_an_unknown_kind_is_refused(contradictory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["data", "check", str(contradictory), "--fail-on", "leaks,outliers"])

    assert exited.value.code == 2
    assert "unknown: outliers; allowed: contradictions, leaks, " in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["no-such-data"], ["DATA", "--student", "no-such-student"], ["DATA", "--locales", "xx"]]
)
def test_what_cannot_be_used_is_one_sentence(
    contradictory: Path, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    named = [str(contradictory) if flag == "DATA" else flag for flag in flags]

    assert main(["data", "check", *named]) == 2

    assert re.search(r"^error: .*\n\Z", capsys.readouterr().err, re.MULTILINE)


def test_json_and_html(contradictory: Path, tmp_path: Path) -> None:
    json_file, html_file = tmp_path / "report.json", tmp_path / "report.html"

    assert main(["data", "check", str(contradictory), "--json", str(json_file), "--html", str(html_file)]) == 0

    report = json.loads(json_file.read_text())
    assert list(report["findings"]) == list(KINDS)
    (contradiction,) = report["findings"]["contradictions"]["findings"]
    assert [row["place"] for row in contradiction["rows"]] == ["data.jsonl:1", "data.jsonl:2"]
    page = html_file.read_text()
    assert "lights &lt;b&gt;off&lt;/b&gt;" in page
    assert str(tmp_path) not in page + json_file.read_text()
    assert page.count("<svg") >= 2
    loaded = References()
    loaded.feed(page)
    assert all(reference.startswith("#") for reference in loaded.found)


def test_the_same_data_and_seed_give_the_same_files(sample: Path, contradictory: Path, tmp_path: Path) -> None:
    for source, kind in ((sample, "json"), (contradictory, "html")):
        files = [tmp_path / f"{number}.{kind}" for number in (1, 2)]
        for file in files:
            flags = ["--locales", "en-US", "--seed", "7", f"--{kind}", str(file)]
            assert main(["data", "check", str(source), *flags]) == 0

        assert files[0].read_bytes() == files[1].read_bytes()


def test_data_without_labels_or_slots_says_what_was_not_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "data.jsonl"
    rows = [{"id": str(i), "locale": "de-DE", "partition": "train", "text": f"text {i}"} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert main(["data", "check", str(file)]) == 0

    assert "Not checked" in capsys.readouterr().out


class References(HTMLParser):
    """What a page links to or loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        assert tag not in ("script", "iframe", "object")
