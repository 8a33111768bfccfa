"""Fixtures shared by all tests: data sets, a tiny trained checkpoint and its student folder, all real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MASSIVE = "MASSIVE_DIR"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests the time that they need; a time-out of their own goes first."""
    for item in items:
        slow = item.get_closest_marker("slow") or item.get_closest_marker("soak")
        if slow and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(4 * 3600))


@pytest.fixture(scope="session")
def sample() -> Path:
    """The project's own sample data set."""
    return Path(__file__).parent.parent / "training" / "sample"


@pytest.fixture(scope="session")
def massive() -> Path:
    """The official MASSIVE 1.1 folder, where the environment names one."""
    folder = os.environ.get(MASSIVE)
    if not folder:
        pytest.skip(f"set {MASSIVE} to the folder of MASSIVE 1.1 to run this test on its 52 locales")
    return Path(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A tiny German student, trained on the sample data with the real command."""
    from training import finetune

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    arguments = [
        "--size",
        "xs",
        "--epochs",
        "30",
        "--batch-size",
        "16",
        "--learning-rate",
        "0.003",
        "--vocabulary",
        "600",
    ]
    assert finetune.main(["--data", str(sample), "--locales", "de-DE", *arguments, "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The int8 student folder of `checkpoint`, exported with the real command."""
    from export import onnx

    folder = tmp_path_factory.mktemp("students") / "tiny"
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(folder)]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings in the developer's environment must not decide a test."""
    for name in [name for name in os.environ if name.startswith("NLU_")]:
        monkeypatch.delenv(name)
