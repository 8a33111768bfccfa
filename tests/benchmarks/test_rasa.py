"""``python -m benchmarks.rasa`` with a stand-in that keeps to Rasa's command line, files and HTTP; and with Rasa."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.peer_servers.environments import python_of
from benchmarks.peer_servers.processes import PROC
from benchmarks.peer_servers.rasa_project import WIRE, Project, training_data
from benchmarks.rasa import MARKS, draw_utterances, main
from tests.service.conftest import write_student
from training.data import datasets
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels

pytestmark = pytest.mark.skipif(not PROC.is_dir(), reason="needs Linux's /proc")

INSTALLED = "PEER_ENVIRONMENTS"  # a folder with environments that --install made
QUICK = ("--locale", "de-DE", "--rounds", "1", "--seconds", "0.2")

# Memorises the training utterances; answers anything else with the fallback intent
STAND_IN = """
import json, sys, tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

flags = dict(zip(sys.argv, sys.argv[1:]))
if sys.argv[1] == "train":
    pipeline = json.loads(Path(flags["--config"]).read_text())["pipeline"]
    epochs = next(part["epochs"] for part in pipeline if part["name"] == "DIETClassifier")
    if epochs == 13:
        sys.exit("no luck")
    Path(flags["--out"]).mkdir()
    with tarfile.open(Path(flags["--out"], flags["--fixed-model-name"] + ".tar.gz"), "w:gz") as model:
        model.add(flags["--nlu"])
    sys.exit()
with tarfile.open(flags["--model"]) as model:
    examples = json.load(model.extractfile("nlu.json"))["rasa_nlu_data"]["common_examples"]
known = {one["text"]: one for one in examples}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["content-length"])))["text"]
        one = known.get(text, {"intent": "nlu_fallback", "entities": []})
        ranking = [{"name": one["intent"]}, {"name": examples[0]["intent"]}]
        reply = json.dumps({"intent": ranking[0], "intent_ranking": ranking, "entities": one["entities"]}).encode()
        self.send_response(200 if self.path == "/model/parse" else 404)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args):
        pass


ThreadingHTTPServer((flags["--interface"], int(flags["--port"])), Handler).serve_forever()
"""


class Place(NamedTuple):
    """The inputs of the command: data, a student, the folder of environments, and the folder of Rasa's project."""

    sample: Path
    student: Path
    environments: Path
    project: Path

    def flags(self, *more: str) -> list[str]:
        found = ["--data", str(self.sample), "--students", str(self.student), "--environments", str(self.environments)]
        return [*found, "--project", str(self.project), *QUICK, *more]


@pytest.fixture
def place(sample: Path, tmp_path: Path) -> Place:
    """An environment whose Rasa is the stand-in."""
    packages = tmp_path / "packages"
    (packages / "rasa").mkdir(parents=True)
    (packages / "rasa" / "__main__.py").write_text(STAND_IN)
    (packages / "rasa-3.6.21.dist-info").mkdir()
    (packages / "rasa-3.6.21.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: rasa\nVersion: 3.6.21\n")
    python = python_of(tmp_path / "environments", "rasa")
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    student = write_student(tmp_path / "tiny", name="tiny", locales=("de-DE",))
    return Place(sample, student, tmp_path / "environments", tmp_path / "project")


def figures_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_rasa_and_student_are_measured_side_by_side(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    out = place.project.parent / "report.md"
    out.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")

    assert main(place.flags("--partition", "train", "--epochs", "7", "--out", str(out))) == 0

    figures = figures_of(capsys)
    rasa, student = figures["found"]["Rasa"], figures["found"]["student tiny"]
    assert [rasa[name][0] for name in ("exact_match", "intent_accuracy", "slot_f1")] == [100, 100, 100]
    assert student["exact_match"][0] < 100
    assert rasa["p50_ratio"] == 1
    assert rasa["per_second_ratio"] == {"1": 1, "8": 1}
    assert student["p50_ratio"] > 0
    assert student["memory_mb"] > 1
    assert (figures["rasa"]["rasa"], figures["rasa"]["epochs"]) == ("3.6.21", 7)
    report = out.read_text()
    assert report.startswith(f"before\n{MARKS[0]}\n")
    assert report.endswith(f"{MARKS[1]}\n\nafter\n")
    assert "| Rasa | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] | 1.000 | 1.0 | 1.0 |" in report
    assert "with 7 epochs (its default is 100)" in report
    assert "\nold\n" not in report


def test_a_model_is_used_again_with_relative_folders_and_not_for_other_settings(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(place.project, python_of(place.environments, "rasa"), "de-DE")
    project.train(datasets.load(str(place.sample), ["de-DE"]).part("train"), [], "3.6.21")
    trained = project.model.stat().st_mtime_ns
    monkeypatch.chdir(place.project.parent)
    relative = [path.relative_to(place.project.parent) for path in (place.environments, place.project, place.student)]
    names = ("--environments", "--project", "--students")
    more = [part for name, path in zip(names, relative, strict=True) for part in (name, str(path))]

    assert main(["--data", str(place.sample.absolute()), *QUICK, *more]) == 0

    found = figures_of(capsys)["found"]
    assert found.keys() == {"Rasa", "student tiny"}
    assert 0 < found["Rasa"]["intent_accuracy"][0] < 100  # the most likely intent after the fallback
    assert project.model.stat().st_mtime_ns == trained

    assert main(place.flags("--epochs", "5")) == 2
    assert "contains a model with other epochs; choose another --project" in capsys.readouterr().err


def test_what_stops_it_is_one_sentence(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(place.flags("--epochs", "13")) == 2
    assert capsys.readouterr().err.endswith("error: Rasa's training failed with exit code 1; see its output above\n")
    assert not (place.project / "made.json").exists()

    assert main(place.flags("--locale", "en-US")) == 2
    assert "tiny: does not support en-US" in capsys.readouterr().err

    assert main([*place.flags(), "--environments", str(tmp_path / "none")]) == 2
    assert "Rasa is not installed; --install --python PATH" in capsys.readouterr().err

    monkeypatch.setenv("PATH", "")
    assert main([*place.flags(), "--environments", str(tmp_path / "none"), "--install", "--python", "/bin/true"]) == 2
    assert "error: " in capsys.readouterr().err


def test_drawn_utterances_are_written_for_students(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    everything = datasets.load(str(place.sample), ["de-DE"]).part("train")
    project = Project(place.project, python_of(place.environments, "rasa"), "de-DE")

    project.train(*draw_utterances(everything, 100), "3.6.21")

    drawn = datasets.load(str(place.project / "utterances.jsonl"))
    assert (len(drawn.part("train")), len(drawn.part("dev"))) == (100, len(everything) - 100)
    assert {u.text for u in drawn.utterances} == {u.text for u in everything}

    assert main(place.flags("--utterances", "999")) == 2
    assert f"--utterances 999: the data has only {len(everything)} training utterances" in capsys.readouterr().err


def test_texts_go_to_rasa_with_offsets() -> None:
    utterance = Utterance("1", "spiel [jazz](genre)", "de-DE", intent="play", slots=(Slot("genre", 7, 11),))

    (example,) = training_data([utterance])["rasa_nlu_data"]["common_examples"]

    entity = {"start": 7, "end": 11, "value": "jazz", "entity": "genre"}
    assert example == {"text": "spiel [jazz](genre)", "intent": "play", "entities": [entity]}


def test_replies_are_read_as_answers() -> None:
    unsure = {"intent": {"name": "nlu_fallback"}, "intent_ranking": [{"name": "nlu_fallback"}, {"name": "play"}]}
    entities = [{"entity": "b", "start": 4, "end": 6}, {"entity": "a", "start": 0, "end": 2}]

    found = WIRE.read(200, json.dumps({**unsure, "entities": entities}).encode())

    assert found == PredictedLabels(None, "play", (Slot("a", 0, 2), Slot("b", 4, 6)))
    for content in (b"[]", b"{", b'{"intent": null, "entities": []}'):
        assert WIRE.problem_of(None, 200, content) == "reply holds no answer"
    assert WIRE.problem_of(None, 500, b"") == "HTTP 500"


@pytest.mark.slow
def test_rasa_itself(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    made = os.environ.get(INSTALLED)
    if not made or not python_of(Path(made), "rasa").exists():
        pytest.skip(f"{INSTALLED} names no folder with an environment for Rasa")

    assert main([*place.flags("--epochs", "3"), "--environments", made]) == 0

    assert figures_of(capsys)["found"]["Rasa"]["intent_accuracy"][0] > 0
