"""Fixtures shared by all tests: data sets, a small trained checkpoint and its student folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

MASSIVE = "MASSIVE_DIR"

# Set before torch is imported: the threads of several test processes would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No limits of time: they fail on a busy machine. Fixtures that last for all examples of a test are meant to.
settings.register_profile(
    "suite", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests a longer time-out, unless they set their own."""
    for item in items:
        slow = item.get_closest_marker("slow") or item.get_closest_marker("soak")
        if slow and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(4 * 3600))


@pytest.fixture(scope="session")
def sample() -> Path:
    """The sample data set of the package."""
    return Path(__file__).parent.parent / "training" / "sample"


@pytest.fixture(scope="session")
def massive() -> Path:
    """The official MASSIVE 1.1 folder, if the environment names one; the test is skipped otherwise."""
    folder = os.environ.get(MASSIVE)
    if not folder:
        pytest.skip(f"set {MASSIVE} to the folder of MASSIVE 1.1 to run this test on its 52 locales")
    return Path(folder)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A small German student, trained on the sample data with the real command."""
    from training import finetune

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    source = ["--data", str(sample), "--locales", "de-DE", "--out", str(folder)]
    schedule = ["--epochs", "15", "--batch-size", "16", "--learning-rate", "0.0015"]
    assert finetune.main([*source, *schedule, "--size", "xs", "--vocabulary", "600"]) == 0
    return folder


@pytest.fixture(scope="session")
def student_folder(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """The int8 student folder of `checkpoint`, uncalibrated, exported with the real command."""
    from export import onnx

    folder = tmp_path_factory.mktemp("students") / "tiny"
    assert onnx.main(["--ckpt", str(checkpoint), "--out", str(folder), "--no-calibration"]) == 0
    return folder


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the settings of the developer's environment."""
    for name in [name for name in os.environ if name.startswith("NLU_")]:
        monkeypatch.delenv(name)
