"""Each extra in a fresh virtual environment of its own: what it installs, what it does not, and what then runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEAVY = {"torch", "transformers", "accelerate", "datasets", "optimum", "onnx"}
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
EXPERIMENT = """
name = "trial"
[arms.control]
model = "s"
weight = 1
[arms.candidate]
model = "xs"
weight = 1
[friction]
session_seconds = 1
"""

Install = Callable[[str], "Environment"]


class Environment:
    """A virtual environment with the wheel, in a folder outside the checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "venv" / "bin"
        self.python = self.programs / "python"

    @property
    def packages(self) -> set[str]:
        """The names of what is installed."""
        listed = subprocess.run([*PIP, "--python", str(self.python), "list", "--format=json"], capture_output=True)
        return {package["name"] for package in json.loads(listed.stdout)}

    def run(self, *command: str, code: int = 0) -> str:
        """Run a program of the environment, or a module. Returns its output; its errors if it is to fail."""
        done = self._start(*command, stderr=subprocess.PIPE)
        out, error = done.communicate(timeout=900)
        assert done.returncode == code, f"{command}: {out}\n{error}"
        return error if code else out

    def figures(self, *command: str) -> Any:
        """As `run`, for a command whose last line is a JSON object."""
        return json.loads(self.run(*command).splitlines()[-1])

    @contextmanager
    def serving(self, *flags: str) -> Iterator[str]:
        """The service, running; yields its URL. It has to end well on SIGTERM."""
        server = self._start("service", "--port", "0", "--drain-delay", "0", *flags)
        assert server.stdout is not None
        try:
            yield next(line for line in server.stdout if line.startswith("Address")).split(":", 1)[1].strip()
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)
        assert server.returncode == 0

    def _start(self, name: str, *flags: str, **streams: Any) -> subprocess.Popen[str]:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        program = self.programs / name
        command = [str(program)] if program.exists() else [str(self.python), "-m", name]
        command += flags
        return subprocess.Popen(command, cwd=self.folder, env=clean, stdout=subprocess.PIPE, text=True, **streams)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what the Dockerfile copies."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for names in re.findall(r"^COPY ([^-].*) \./\S*$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for name in names.split():
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, source)
    subprocess.run([*PIP, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(made), str(source)], check=True)
    return next(made.glob("*.whl"))


@pytest.fixture(scope="session")
def install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Install:
    """Make an environment with the wheel: `install("")`, `install("[loadtest]")`."""

    def make(extra: str) -> Environment:
        environment = Environment(tmp_path_factory.mktemp("fresh"))
        venv = [sys.executable, "-m", "venv", "--without-pip", str(environment.folder / "venv")]
        subprocess.run(venv, check=True)
        command = [*PIP, "--python", str(environment.python), "install", "--quiet", "--no-compile"]
        subprocess.run([*command, "-c", str(CONSTRAINTS), f"{wheel}{extra}"], check=True)
        return environment

    return make


@pytest.fixture(scope="module")
def base(install: Install) -> Environment:
    return install("")


@pytest.fixture(scope="module")
def loadtest(install: Install) -> Environment:
    return install("[loadtest]")


def test_the_wheel_holds_the_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    tops = {name.partition("/")[0] for name in names if "dist-info" not in name}
    assert tops >= {"distilled_nlu", "service", "training", "export", "loadtest"}
    assert not {"benchmarks", "tests", "docs", "deploy"} & tops
    assert {f"{top}/py.typed" for top in tops} <= set(names)
    for folder in ("service/page", "service/students", "training/recipes", "training/sample"):
        data = [path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"]
        assert data
        assert {str(path.relative_to(ROOT)) for path in data} <= set(names)


def test_the_base_install_serves_the_shipped_student(base: Environment) -> None:
    question = {"text": "weck mich am freitag um neun uhr auf", "locale": "de-DE"}
    headers = {"content-type": "application/json"}
    with base.serving() as url:
        request = urllib.request.Request(f"{url}/v1/nlu", json.dumps(question).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            answer = json.load(reply)

    assert answer["intent"]["name"] == "alarm_set"
    assert base.figures("service.ask", "--locale", "de-DE", question["text"])["intent"]["name"] == "alarm_set"
    script = f"from distilled_nlu import Student; print(Student.load('s')({question['text']!r}).intent.name)"
    assert base.run("python", "-c", script) == "alarm_set\n"
    assert not (HEAVY | {"locust", "scipy", "matplotlib"}) & base.packages


@pytest.mark.parametrize(
    ("command", "missing", "extra"),
    [
        ("training.finetune --data DATA --out CKPT", "torch", "training"),
        ("distilled_nlu evaluate --student s --data DATA", "torch", "training"),
        ("distilled_nlu data check DATA", "sklearn", "check"),
        ("export.onnx --ckpt CKPT --out DIR", "onnx", "export"),
        ("loadtest", "locust", "loadtest"),
        ("distilled_nlu wyoming", "wyoming", "wyoming"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(base: Environment, command: str, missing: str, extra: str) -> None:
    error = base.run(*command.split(), code=2)

    assert error == f"error: {missing} is not installed; this command needs: pip install 'distilled-nlu[{extra}]'\n"


def test_the_extra_loadtest_compares_the_shipped_students_on_the_sample(loadtest: Environment) -> None:
    sample = next((loadtest.folder / "venv").glob("lib/*/site-packages/training/sample"))
    flags = ["--data", str(sample), "--locales", "de-DE", "--rounds", "1", "--seconds", "0.5", "--out", "report"]

    report = loadtest.figures("distilled-nlu", "compare", "--students", "s", "xs", *flags)

    assert report["students"].keys() == {"s", "xs"}
    assert report["students"]["s"]["quality"]["mean"]["exact_match"][0] > 30
    assert (loadtest.folder / "report" / "report.html").is_file()
    assert not HEAVY & loadtest.packages


def test_the_extra_loadtest_loads_and_experiments(loadtest: Environment) -> None:
    (loadtest.folder / "experiment.toml").write_text(EXPERIMENT)
    with loadtest.serving("--experiment-file", "experiment.toml") as url:
        load = loadtest.figures("loadtest", "--host", url, "--users", "2", "--seconds", "1")
        users = ["--clients", "20", "--friction", "control=0.1,candidate=0.2"]
        played = loadtest.figures("loadtest.population", "--host", url, *users)
        found = loadtest.figures("loadtest.experiment", "--host", url)

    assert load["failures"] == played["failures"] == 0
    assert played["arms"].keys() == found["arms"].keys() == {"control", "candidate"}


@pytest.mark.parametrize("command", [".experiment", ".population", ".shadow"])
def test_experiments_need_only_the_base_install(base: Environment, command: str) -> None:
    assert "usage" in base.run(f"loadtest{command}", "--help")


@pytest.mark.parametrize("command", ["", ".compare"])
def test_the_extra_loadtest_has_all_that_its_commands_import(loadtest: Environment, command: str) -> None:
    assert "usage" in loadtest.run(f"loadtest{command}", "--help")


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_the_extra_loadtest_measures_a_shadow(loadtest: Environment) -> None:
    figures = loadtest.figures("loadtest.shadow", "--rounds", "1", "--seconds", "0.5", "--share", "1")

    assert figures["loads"].keys() == {"moderate", "saturation"}


def train(environment: Environment) -> Any:
    """Train a tiny student on the sample, in ``tiny``."""
    sample = next((environment.folder / "venv").glob("lib/*/site-packages/training/sample"))
    size = ["--size", "xs", "--epochs", "1", "--vocabulary", "600", "--locales", "de-DE"]
    return environment.figures("training.finetune", "--data", str(sample), *size, "--out", "tiny")


@pytest.mark.slow
def test_the_extra_training_trains(install: Install) -> None:
    environment = install("[training]")

    train(environment)

    assert (environment.folder / "tiny" / "training.json").is_file()
    assert not {"onnx", "optimum", "locust"} & environment.packages


@pytest.mark.slow
def test_the_extra_export_exports_what_was_trained(install: Install) -> None:
    environment = install("[export]")

    train(environment)
    environment.run("export.onnx", "--ckpt", "tiny", "--out", "student")

    assert environment.figures("service.ask", "--student", "student", "--locale", "de-DE", "spiel musik")["text"]
    assert "locust" not in environment.packages
