"""``python -m loadtest.compare`` from end to end on two versions of a tiny student, and its parts."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from loadtest.compare import command_of, main
from loadtest.comparison.document import Bullets, Heading, Paragraph, Picture, html, markdown
from loadtest.comparison.report import RATIOS, front_of, ratios_of, recommendation, subjects_of
from loadtest.comparison.text import TITLE, blocks_of
from loadtest.load.memory import memory_of
from loadtest.load.tables import Table
from loadtest.load.target import ROOT
from service.student.manifest import StudentError, read_manifest
from service.student.shipped import SHIPPED_STUDENTS
from tests.service import conftest
from tests.service.conftest import write_student
from training.data.utterances import Slot, Utterance
from training.evaluation.paired import compare, mcnemar
from training.evaluation.requirements import choose, parse
from training.evaluation.scoring import PredictedLabels, Scorecard

QUICK = ("--rounds", "1", "--seconds", "0.1", "--p99-bound", "10000")  # a bound that any machine keeps
LOCALES = ("de-DE", "it-IT")
SENTENCES = (
    ("weck mich am freitag", "alarm", "alarm_set", [("date", "freitag")]),
    ("spiel musik", "music", "music_play", []),
    ("wetter in berlin", "weather", "weather_query", [("place_name", "berlin")]),
    ("was ist das", "weather", "weather_query", []),  # answered wrongly by the tiny student
)


class Output(NamedTuple):
    """The command's exit code, output and report."""

    code: int
    said: str
    report: dict[str, Any]
    folder: Path


def rows() -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "locale": locale,
            "partition": "dev",
            "text": text,
            "domain": domain,
            "intent": intent,
            "slots": [{"name": n, "start": text.index(v), "end": text.index(v) + len(v)} for n, v in slots],
        }
        for locale in LOCALES
        for number, (text, domain, intent, slots) in enumerate(SENTENCES)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "requests.jsonl"
    file.write_text("\n".join(map(json.dumps, rows())))
    return file


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two students of one name; the second takes music for weather, and knows one locale more."""
    root = tmp_path_factory.mktemp("students")
    old = write_student(root / "old" / "tiny", name="tiny", locales=LOCALES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(conftest.LABELS, "intent", ("alarm_set", "weather_query", "music_play"))
        new = write_student(root / "new" / "tiny", name="tiny", locales=(*LOCALES, "fr-FR"))
    return [old, new]


def run(students: list[Path], data: Path, out: Path, *flags: str) -> Output:
    with redirect_stdout(io.StringIO()) as said:
        code = main(["--students", *map(str, students), "--data", str(data), "--out", str(out), *QUICK, *flags])
    *text, last = said.getvalue().splitlines()
    return Output(code, "\n".join(text), json.loads(last), out)


@pytest.fixture(scope="module")
def output(versions: list[Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    bounds = ("--require", "exact_match>=70", "--require", "p99_ms<=10000")
    return run(versions, data, tmp_path_factory.mktemp("out") / "report", *bounds)


def test_accuracy_is_that_of_the_answers_over_http(output: Output) -> None:
    old, new = (output.report["students"][name]["quality"] for name in ("old/tiny", "new/tiny"))

    assert old["mean"]["exact_match"][0] == 75
    assert old["locales"]["it-IT"]["intent_accuracy"][0] == 75
    assert old["mean"]["slot_f1"][0] == 100
    assert new["mean"]["exact_match"][0] == 25
    assert new["mean"]["domain_accuracy"] == old["mean"]["domain_accuracy"]


def test_costs_are_measured(output: Output) -> None:
    for student in output.report["students"].values():
        cost = student["cost"]
        assert 0 < cost["p50_ms"] <= cost["p95_ms"] <= cost["p99_ms"]
        assert cost["phases"].keys() == {"queue", "tokenize", "inference", "decode", "total"}
        assert 0 < cost["phases"]["total"]["p50_ms"] < cost["p50_ms"]
        assert cost["throughput_per_second"] > 0
        assert cost["start_seconds"] > 0
        assert cost["disk_mb"] > 0
        assert cost["memory_mb"] is None or 10 < cost["memory_mb"] < 1000
        assert (cost["sustained_per_second"] or 0) < cost["throughput_per_second"]


def test_versions_are_told_apart_and_compared(output: Output) -> None:
    (found,) = output.report["comparisons"]

    assert (found["student"], found["baseline"]) == ("new/tiny", "old/tiny")
    assert found["mean"]["exact_match"][0] == -50
    assert found["mean"]["slot_f1"] == [0, 0, 0]
    assert found["exact_match"]["de-DE"] == {"gained": 0, "lost": 2, "p_value": 0.5}
    assert output.report["left_out"] == ["fr-FR"]


def test_changed_utterances_are_listed_whole(output: Output) -> None:
    (found,) = output.report["comparisons"]
    listed = [json.loads(line) for line in (output.folder / found["file"]).read_text().splitlines()]

    assert len(listed) == found["changed"]
    assert {one["text"] for one in listed} >= {"spiel musik", "wetter in berlin"}
    weather = next(one for one in listed if one["text"] == "wetter in berlin")
    assert weather["expected"] == weather["before"]
    assert weather["now"] == {"domain": "weather", "intent": "music_play", "slots": ["place_name: berlin"]}


def test_the_smallest_student_that_fits_is_named(output: Output) -> None:
    assert output.code == 0
    assert output.report["required"]["fits"] == "old/tiny"
    assert "The smallest student with exact_match>=70, p99_ms<=10000 is old/tiny." in output.said
    assert "new/tiny: exact_match is 25, should be >= 70" in output.said


def test_the_report_says_the_same_in_all_forms(output: Output) -> None:
    text, page = (output.folder / "report.md").read_text(), (output.folder / "report.html").read_text()

    assert json.loads((output.folder / "report.json").read_text()) == output.report
    for said in ("old/tiny is the most accurate (75.0 % exact match)", "new/tiny against old/tiny", "+0 -2, p = 0.5"):
        assert said in text
        assert said in page
    for picture in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text):
        assert (output.folder / picture).read_text().rstrip().endswith("</svg>")


def test_the_page_needs_nothing_else(output: Output) -> None:
    page = (output.folder / "report.html").read_text()

    assert page.count("<svg") == 3
    assert not re.search(r"<(script|link|img|iframe)\b", page)
    assert not re.search(r"""(src|href)=["'](?!#)""", page)


def test_the_command_is_shown_without_absolute_paths() -> None:
    shown = command_of(["--data", "/home/someone/massive", "--out", "report", "--require", "p99_ms<=3"])

    assert shown == "python -m loadtest.compare --data massive --out report --require 'p99_ms<=3'"


def test_the_published_report_and_the_readme_agree_with_report_json() -> None:
    folder = ROOT / "docs" / "students"
    report, text = json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text()
    digests = {name: read_manifest(SHIPPED_STUDENTS / name).digest for name in report["students"]}

    assert markdown(TITLE, blocks_of(report)) == text
    assert {name: student["digest"] for name, student in report["students"].items()} == digests
    tables = [line for line in text[: text.index("## By locale")].splitlines() if line.startswith("|")]
    readme = (ROOT / "README.md").read_text()
    assert [line for line in tables if line not in readme] == []
    assert report["recommendation"] in " ".join(readme.split())


def test_a_published_report_holds_no_texts_and_a_missed_requirement_is_exit_code_1(
    versions: list[Path], data: Path, tmp_path: Path
) -> None:
    required = ("--require", "exact_match@it-IT>=99", "--locales", "it-IT")

    output = run(versions, data, tmp_path / "report", "--no-texts", *required)

    assert output.code == 1
    assert (
        "No student meets exact_match@it-IT>=99. old/tiny: exact_match@it-IT is 75, should be >= 99 (24 too low);"
        in output.said
    )
    assert output.report["utterances"] == {"it-IT": 4}
    assert output.report["comparisons"][0]["changed"] == 2
    written = {file.name: file.read_bytes().decode(errors="replace") for file in output.folder.iterdir()}
    assert written.keys() >= {"report.md", "report.json", "report.html", "front.svg"}
    assert not [name for name in written if name.startswith("changed")]
    assert not [name for name, content in written.items() if "spiel musik" in content]


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--require", "speed>=3"], "'speed' should be one of domain_accuracy"),
        (["--require", "exact_match=57"], "should be a figure, >= or <=, and a number, such as exact_match>=57"),
        (["--require", "p99_ms@de-DE<=3"], "'p99_ms' should be one of"),
        (["--require", "exact_match>=1.2.3"], "'1.2.3' is not a number"),
        (["--locales", "de-DE,xx-XX"], "not all students support xx-XX; allowed: de-DE, it-IT"),
        (["--partition", "test"], "test"),
        (["--require", "exact_match@fr-FR>=1"], "fr-FR is not scored; allowed: de-DE, it-IT"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(
    versions: list[Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], problem: str
) -> None:
    code = main(["--students", str(versions[0]), "--data", str(data), "--out", str(tmp_path / "out"), *flags])

    assert code == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_students_are_found_in_folders_and_told_apart(versions: list[Path], tmp_path: Path) -> None:
    root = versions[0].parent.parent
    assert [subject.name for subject in subjects_of([root / "old", root / "new"])] == ["old/tiny", "new/tiny"]
    with pytest.raises(StudentError, match="given twice"):
        subjects_of([root / "old", versions[0]])
    with pytest.raises(StudentError, match="not a student folder"):
        subjects_of([tmp_path])


def test_a_file_as_report_folder_is_refused_at_once(
    versions: list[Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    code = main(["--students", str(versions[0]), "--data", str(data), "--out", str(tmp_path / "file"), *QUICK])

    assert code == 2
    assert "file is a file; it should be a folder" in capsys.readouterr().err


@given(gained=st.integers(0, 300), lost=st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected)


utterances = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["a", "b"]), st.sampled_from(["a", "b"])), min_size=1
)


@settings(max_examples=12)
@given(outcomes=utterances)
def test_a_comparison_turned_round_has_the_other_sign(outcomes: list[tuple[str, str, str]]) -> None:
    references = [
        Utterance(str(i), "some text", "de-DE", "dev", intent=expected, slots=(Slot("x", 0, 4),))
        for i, (expected, _, _) in enumerate(outcomes)
    ]
    cards = [
        Scorecard.of(references, [PredictedLabels(None, said[side], (Slot("x", 0, 4),)) for said in outcomes])
        for side in (1, 2)
    ]
    there, back = compare(*cards), compare(*reversed(cards))

    for metric, (difference, low, high) in there["mean"].items():
        assert back["mean"][metric] == [-difference, -high, -low]
        assert low <= high
    one, other = there["exact_match"]["de-DE"], back["exact_match"]["de-DE"]
    assert (one["gained"], one["lost"], one["p_value"]) == (other["lost"], other["gained"], other["p_value"])
    size = len(outcomes)
    assert there["mean"]["exact_match"][0] == pytest.approx(100 * (one["gained"] - one["lost"]) / size, abs=1e-3)


def student(accuracy: float, p50: float, disk: float = 1.0, front: bool = True) -> dict[str, Any]:
    quality = {"mean": {"exact_match": [accuracy, accuracy - 1, accuracy + 1]}, "locales": {}}
    rounds = [dict.fromkeys(RATIOS, p50)]
    cost = {"p50_ms": p50, "disk_mb": disk, "p99_ms": None}
    return {"quality": quality, "cost": cost, "is_on_front": front, "rounds": rounds}


@given(points=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=8))
def test_the_front_holds_exactly_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    students = {str(i): student(*point) for i, point in enumerate(points)}
    front = front_of(students, "exact_match")

    assert front
    for i, (accuracy, latency) in enumerate(points):
        beaten = any(a >= accuracy and p <= latency and (a, p) != (accuracy, latency) for a, p in points)
        assert (str(i) in front) == (not beaten)


def test_the_recommendation_is_the_smallest_that_is_not_shown_to_be_worse() -> None:
    students = {
        "l": student(60, 2.0, disk=20),
        "s": student(59.8, 1.0, disk=8),
        "xs": student(50, 0.5, disk=3),
        "bad": student(40, 3.0, disk=9, front=False),
    }
    to_best = {"l": [0, 0, 0], "s": [-0.2, -1, 0.6], "xs": [-10, -12, -8], "bad": [-20, -22, -18]}
    said = recommendation({"students": students, "judged_by": "exact_match", "to_best": to_best})

    assert "s is smaller, and not shown to be worse (-0.2 [-1.0, +0.6] points): take s." in said
    assert "xs takes 0.25 of l's time and 0.15 of its disk, for -10.0 [-12.0, -8.0] points" in said
    assert "Another is both faster and as accurate as bad." in said
    alone = recommendation({"students": {"s": students["s"]}, "judged_by": "exact_match"})
    assert alone == "Only s was measured; name others to compare it with."


def test_ratios_are_taken_within_rounds() -> None:
    names = ("p50_ms", "p99_ms", "throughput_per_second", "start_seconds")
    first = [dict.fromkeys(names, 1.0), dict.fromkeys(names, 10.0), dict.fromkeys(names, 3.0)]
    own = [{name: 2 * value for name, value in found.items()} for found in first]
    more = {"memory_mb": None, "sustained_per_second": 5.0}
    ratios = ratios_of([found | more for found in own], [found | more for found in first])

    assert ratios == dict.fromkeys(names, 2.0) | {"memory_mb": None, "sustained_per_second": 1.0}


def test_what_was_not_measured_does_not_fit() -> None:
    students = {"s": student(60, 1.0)}
    found = choose(students, [parse("p99_ms <= 3"), parse("slot_f1>=1")])

    assert found["fits"] is None
    assert found["misfits"] == {"s": ["p99_ms was not measured", "slot_f1 was not measured"]}


def test_documents_escape_what_texts_hold() -> None:
    blocks = [
        Heading("a < b"),
        Paragraph("x & y"),
        Bullets(["<b>"]),
        Table(["a|b", "c"], [["1\n2", "<i>"]], is_text=True),
        Picture("p.svg", '"quoted"'),
    ]
    page, text = html("<t>", blocks, {"p.svg": "<?xml?><svg></svg>"}), markdown("t", blocks)

    assert "<title>&lt;t&gt;</title>" in page
    assert "<h2>a &lt; b</h2>" in page
    assert "<li>&lt;b&gt;</li>" in page
    assert "<td>&lt;i&gt;</td>" in page
    assert 'aria-label="&quot;quoted&quot;"><svg>' in page
    assert "| a\\|b | c |\n| --- | --- |\n| 1 2 | <i> |" in text


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's /proc")
def test_memory_counts_what_a_process_started() -> None:
    script = "import sys; held = bytearray(b'x' * 50_000_000); print(flush=True); sys.stdin.read()"
    alone = memory_of(os.getpid())
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        together = memory_of(os.getpid())

    assert alone is not None
    assert together is not None
    assert together > alone + 45_000_000
    assert memory_of(child.pid) is None
