"""Settings from flags and the environment, and refusals to start."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, flag_of, parser, read_settings, variable_of
from service.student.shipped import SHIPPED_STUDENTS


def test_defaults_serve_the_shipped_students() -> None:
    settings = read_settings([])

    assert settings.students.parts[-2:] == ("service", "students")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_flag_wins_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NLU_MAX_BATCH", "7")
    monkeypatch.setenv("NLU_PORT", "1234")

    settings = read_settings(["--max-batch", "8", "--students=somewhere"])

    assert (settings.max_batch, settings.port, settings.students) == (8, 1234, Path("somewhere"))


def test_shipped_student_is_served_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xs").mkdir()

    assert read_settings(["--students", "xs"]).students == SHIPPED_STUDENTS / "xs"
    assert read_settings(["--students", "./xs"]).students == Path("xs")
    assert read_settings(["--students", "xxs"]).students == Path("xxs")


def test_settings_cannot_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(Settings(), "port", 1)  # noqa: B010 - a plain assignment is refused by mypy already


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_explained_in_help(name: str) -> None:
    text = " ".join(parser().format_help().split())

    assert flag_of(name) in text
    assert f"{Settings.model_fields[name].description} (default: " in text


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--max-bach", "3"], "unknown argument --max-bach (did you mean --max-batch?)"),
        (["--zzz"], "unknown argument --zzz; see --help"),
        (["surplus"], "unknown argument surplus"),
        (["--port"], "argument --port: expected one argument"),
        (["--max-b", "3"], "unknown argument --max-b "),
        (["--port", "70000"], "--port=70000 is not allowed: it should be less than or equal to 65535"),
        (["--port", "eighty"], "--port=eighty is not allowed: it should be a valid integer"),
        (["--max-batch", "0"], "--max-batch=0 is not allowed: it should be greater than or equal to 1"),
        (
            ["--log-level", "loud"],
            "--log-level=loud is not allowed: it should be 'debug', 'info', 'warning' or 'error'",
        ),
        (
            ["--aliases", "a/b=s"],
            "--aliases=a/b=s is not allowed: it should be pairs of names such as default=s,fast=xs",
        ),
        (["--aliases", "a=s,a=xs"], "--aliases=a=s,a=xs is not allowed: it should not have the same name twice"),
        (["--max-body-bytes", "2000"], "max_text_chars (20000) must not exceed max_body_bytes (2000)"),
    ],
)
def test_bad_flags_are_one_sentence(argv: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(argv)

    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("NLU_MAX_BACH", "3", "unknown environment variable NLU_MAX_BACH (did you mean NLU_MAX_BATCH?); known: "),
        ("nlu_nonsense", "3", "unknown environment variable nlu_nonsense"),
        ("NLU_PORT", "", "NLU_PORT= is not allowed: it should be a valid integer"),
        ("NLU_DRAIN_SECONDS", "-1", "NLU_DRAIN_SECONDS=-1 is not allowed: it should be greater than or equal to 1"),
    ],
)
def test_bad_variables_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as caught:
        read_settings([])

    assert str(caught.value).startswith(sentence)


def test_names_of_flag_and_variable() -> None:
    assert (flag_of("max_batch"), variable_of("max_batch")) == ("--max-batch", "NLU_MAX_BATCH")
