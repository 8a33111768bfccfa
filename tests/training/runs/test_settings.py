from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from training.models.checkpoint import save_resume_state
from training.models.errors import CheckpointError
from training.objectives.losses import HIDDEN_LOSSES, PREDICTION_LOSSES
from training.runs import settings as all_settings
from training.runs.flags import file_names, listed, parser_of, setting
from training.runs.start import begin, is_untouched, report


@dataclass(frozen=True)
class Settings:
    corpus: str = setting("", "text")
    some_steps: int = setting(3, "steps", low=1)
    share: float = setting(0.5, "a share", low=0, high=1)
    kind: str = setting("a", "a choice", choices=("a", "b"))
    kinds: str = setting("a,b", "some of them", choices=("a", "b"), several=True)
    extra: bool | None = setting(None, "a switch")


@dataclass(frozen=True)
class Changeable:
    learning_rate: float = setting(1e-3, "a rate")
    seed: int = setting(1, "a seed")


def parsed(out: Path, *arguments: str) -> argparse.Namespace:
    return parser_of("training.test", "A test.", Settings).parse_args(["--out", str(out), *arguments])


def test_settings_are_given_or_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, storage = begin("training.test", Settings, parsed(tmp_path, "--some-steps", "7", "--kind", "b"))

    assert settings == Settings(some_steps=7, kind="b")
    assert storage.state is None
    shown = capsys.readouterr().err
    assert "some_steps       7 (given)" in shown
    assert "share            0.5 (default)" in shown


@pytest.mark.parametrize(("arguments", "expected"), [([], None), (["--extra"], True), (["--no-extra"], False)])
def test_a_switch_is_on_off_or_not_given(tmp_path: Path, arguments: list[str], expected: bool | None) -> None:
    settings, _ = begin("training.test", Settings, parsed(tmp_path, *arguments))

    assert settings.extra is expected


def test_a_resumed_run_inherits_what_is_not_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inherited = {"corpus": "x", "some_steps": 7, "share": 0.25, "kind": "b", "kinds": "a"}
    save_resume_state(tmp_path, {"command": "training.test", "settings": inherited})

    settings, storage = begin("training.test", Settings, parsed(tmp_path, "--resume", "--share", "0.25"))

    assert settings == Settings("x", 7, 0.25, "b", "a")
    assert storage.state is not None
    assert "kind             b (inherited)" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--some-steps 8 differs from the interrupted run's 7"):
        begin("training.test", Settings, parsed(tmp_path, "--resume", "--some-steps", "8"))
    with pytest.raises(CheckpointError, match=r"interrupted run of training\.test, not of training\.other"):
        begin("training.other", Settings, parsed(tmp_path, "--resume"))
    with pytest.raises(CheckpointError, match="is not empty"):
        begin("training.test", Settings, parsed(tmp_path))


def test_rate_and_precision_may_change_on_resume_as_a_run_that_went_wrong_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_resume_state(tmp_path, {"command": "training.test", "settings": {"learning_rate": 1e-2, "seed": 1}})
    parser = parser_of("training.test", "", Changeable)

    args = parser.parse_args(["--out", str(tmp_path), "--resume", "--learning-rate", "0.001"])
    assert begin("training.test", Changeable, args)[0] == Changeable(1e-3, 1)

    assert "learning_rate    0.001 (given, 0.01 until now)" in capsys.readouterr().err


def test_resuming_starts_what_was_never_begun(tmp_path: Path) -> None:
    (tmp_path / ".lines").mkdir()

    assert begin("training.test", Settings, parsed(tmp_path, "--resume"))[1].state is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--some-steps", "0"], "--some-steps: 0 is out of range; allowed: 1 or more"),
        (["--share", "1.5"], "--share: 1.5 is out of range; allowed: 0 to 1"),
        (["--some-steps", "x"], "invalid int value: 'x'"),
        (["--kind", "c"], "invalid choice: 'c'"),
        (["--kinds", "b,c,d"], "--kinds: c, d; allowed: a, b"),
        (["--save-every", "0"], "0 is out of range; allowed: 1 or more"),
    ],
)
def test_what_is_out_of_range_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        parsed(tmp_path, *arguments)

    assert message in capsys.readouterr().err


def test_only_what_a_killed_start_leaves_counts_as_untouched(tmp_path: Path) -> None:
    assert is_untouched(tmp_path / "none")
    assert is_untouched(tmp_path)
    (tmp_path / "via-m" / ".lines").mkdir(parents=True)
    (tmp_path / "via-m" / ".lines" / "pieces.16").write_bytes(b"x")
    assert is_untouched(tmp_path)
    (tmp_path / "via-m" / "resume.pt").write_bytes(b"x")
    assert not is_untouched(tmp_path)
    assert not is_untouched(tmp_path / "via-m" / "resume.pt")


@pytest.mark.parametrize(("error", "code"), [(ValueError("no"), 2), (OSError("no"), 1), (FloatingPointError("no"), 1)])
def test_what_stops_a_command_is_one_line(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> dict[str, object]:
        raise error

    assert report(fail) == code
    assert capsys.readouterr() == ("", "error: no\n")
    assert report(lambda: {"a": "\u00fc"}) == 0
    assert capsys.readouterr().out == '{"a": "\u00fc"}\n'


def test_lists_and_file_names(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()

    assert listed(" a, b,,") == ["a", "b"]
    assert file_names(f"{tmp_path / 'a.txt'},{tmp_path / 'a.txt'},hub:x/y") == "a.txt,hub:x/y"
    assert file_names(f"de-DE={tmp_path / 'a.txt'}") == "de-DE=a.txt"


def test_the_losses_that_can_be_chosen_are_those_that_there_are() -> None:
    assert tuple(PREDICTION_LOSSES) == all_settings.PREDICTION_LOSSES
    assert tuple(HIDDEN_LOSSES) == all_settings.HIDDEN_LOSSES


@pytest.mark.parametrize("name", ["PretrainSettings", "DistillSettings", "FinetuneSettings"])
def test_help_names_every_default(name: str) -> None:
    """Of each setting, and of --save-every, --threads and --track."""
    shown = parser_of("training.test", "", getattr(all_settings, name)).format_help()

    assert " ".join(shown.split()).count("(default: ") == len(fields(getattr(all_settings, name))) + 3
