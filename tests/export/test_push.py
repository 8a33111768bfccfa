"""Students are published on a hub and loaded from it, through `huggingface_hub`, on a local endpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.push import main as push_main
from service.settings import SettingsError, read_settings
from service.student.hub import download, pinned
from service.student.manifest import StudentError
from tests.export.hub_server import TOKEN, Hub, running_hub
from tests.service.conftest import write_student
from tests.service.server import ROOT
from training.models.checkpoint import load_checkpoint
from training.models.errors import CheckpointError

ASK = ("service.ask", "--locale", "de-DE", "weck mich um neun")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_student(tmp_path_factory.mktemp("students") / "mine", name="mine")
    (folder / "MODEL_CARD.md").write_text("# mine\n")
    return folder


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


class Run:
    """Runs commands that use a hub; `huggingface_hub` reads its settings from the environment when it is imported."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": TOKEN}
        self.environment["HF_HUB_DISABLE_TELEMETRY"] = "1"

    def __call__(self, *command: str, code: int = 0, **environment: str) -> Any:
        """The last line of standard output as JSON; standard error if the command is to fail."""
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=ROOT,
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        return done.stderr if code else json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def run(hub: Hub, tmp_path: Path) -> Run:
    return Run(hub, tmp_path / "hf")


def test_a_published_student_is_loaded_by_its_name(hub: Hub, run: Run, student: Path) -> None:
    published = run("export.push", "--student", str(student), "--to", "me/published", "--private")

    ((commit, files),) = hub.commits["me/published"]
    assert published == {"student": f"hub:me/published@{commit}", "repository": "me/published", "revision": commit}
    assert files.keys() == {"manifest.json", "model.onnx", "tokenizer.json", "MODEL_CARD.md", "README.md"}
    assert files["model.onnx"] == (student / "model.onnx").read_bytes()
    page = files["README.md"].decode()
    assert page.startswith("---\nlibrary_name: distilled-nlu\n")
    assert '  - "de"\n' in page
    assert page.endswith("---\n\n# mine\n")
    assert hub.private["me/published"]

    answer = run(*ASK, "--student", published["student"])
    assert answer["intent"]["name"] == "alarm_set"
    assert run(*ASK, "--student", published["student"], HF_HUB_OFFLINE="1") == answer | {
        "milliseconds": pytest.approx(answer["milliseconds"], abs=1e6)
    }


def test_only_the_files_of_the_manifest_are_downloaded_of_one_commit(hub: Hub, run: Run, student: Path) -> None:
    files = {file.name: file.read_bytes() for file in student.iterdir()}
    commit = hub.commit("me/more", {**files, "evil.pkl": b"no", "code.py": b"no"})

    run(*ASK, "--student", "hub:me/more")

    fetched = {one for one in hub.fetched if one[0] == "me/more"}
    assert {file for _, _, file in fetched} == {"manifest.json", "model.onnx", "tokenizer.json"}
    assert {revision for _, revision, file in fetched if file != "manifest.json"} == {commit}


@pytest.mark.parametrize("file", ["model.onnx", "tokenizer.json"])
def test_digests_are_checked(hub: Hub, run: Run, student: Path, file: str) -> None:
    files = {one.name: one.read_bytes() for one in student.iterdir()}
    hub.commit(f"me/changed-{file}", files | {file: files[file] + b" "})

    error = run(*ASK, "--student", f"hub:me/changed-{file}", code=2)

    assert file in error
    assert error.startswith("error: ")


def test_what_the_hub_lacks_is_named(hub: Hub, run: Run) -> None:
    hub.commit("me/nothing", {"README.md": b"# nothing"})

    for source in ("hub:me/nothing", "hub:me/none", "hub:me/nothing@0123"):
        error = run(*ASK, "--student", source, code=2)
        assert error.startswith(f"error: {source}: can't be fetched: ")


def test_a_refused_push_is_named(run: Run, student: Path, hub: Hub) -> None:
    error = run("export.push", "--student", str(student), "--to", "me/refused", code=2, HF_TOKEN="hf_other")

    assert error.startswith("error: me/refused: the hub refuses: HfHubHTTPError: 401")
    assert "me/refused" not in hub.commits


def test_other_files_are_not_published(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_student(tmp_path / "mine")
    (folder / "weights.pkl").write_bytes(b"")

    assert push_main(["--student", str(folder), "--to", "me/mine"]) == 2
    assert f"error: {folder}: not published: the manifest does not list weights.pkl\n" in capsys.readouterr().err
    assert push_main(["--student", str(student), "--to", "mine"]) == 2
    assert "error: mine: should be OWNER/NAME\n" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["hub:", "hub:name", "hub:a/b/c", "hub:../b", "hub:a/b@", "hub:a/b@x y", "hub:a/-b"])
def test_malformed_names(source: str) -> None:
    with pytest.raises(StudentError, match="should be hub:OWNER/NAME"):
        download(source)
    with pytest.raises(SettingsError, match=r"--students=hub:.* is not allowed: it can't be used: hub:"):
        read_settings(["--students", source])


def test_training_names_the_problem_too() -> None:
    with pytest.raises(CheckpointError, match="hub:name: should be hub:OWNER/NAME"):
        load_checkpoint("hub:name")


def test_other_names_are_not_pinned() -> None:
    assert [pinned(name) for name in ("s", "runs/students/s", "")] == ["s", "runs/students/s", ""]
