"""The page of all settings is the one that `make docs` writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.settings_reference import main, page
from service.settings import SHIPPED_STUDENTS, Settings, flag_of, variable_of

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_the_page_in_docs_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `make docs`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_one_row_of_four_cells(name: str) -> None:
    (row,) = [line for line in page().splitlines() if line.startswith(f"| `{flag_of(name)}` |")]

    assert variable_of(name) in row
    assert row.replace(r"\|", "").count("|") == 5


def test_defaults_are_those_of_any_machine(capsys: pytest.CaptureFixture[str]) -> None:
    main()

    printed = capsys.readouterr().out
    assert printed == page()
    assert str(SHIPPED_STUDENTS) not in printed
    assert "| `--students` | `NLU_STUDENTS` | the shipped students | " in printed
    assert "| `--port` | `NLU_PORT` | `8000` | " in printed
    assert "| `--watch` | `NLU_WATCH` | off | " in printed
    assert "| `--api-keys-file` | `NLU_API_KEYS_FILE` | none | " in printed
