"""The reference pages of the documentation are those that the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilled_nlu.cli import COMMANDS
from docs.generate import DOCS, command_line_page, http_page, pages, settings_page
from service.settings import Settings, flag_of, variable_of
from service.student.shipped import SHIPPED_STUDENTS


@pytest.mark.parametrize("page", ["configuration.md", "reference/cli.md", "reference/http.md"])
def test_the_page_in_docs_is_up_to_date(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == pages()[DOCS / page], "run `make docs`"


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_has_one_row_of_four_cells(name: str) -> None:
    (row,) = [line for line in settings_page().splitlines() if line.startswith(f"| `{flag_of(name)}` |")]

    assert variable_of(name) in row
    assert row.replace(r"\|", "").count("|") == 5


def test_defaults_are_those_of_any_machine() -> None:
    page = settings_page()

    assert str(SHIPPED_STUDENTS) not in page
    assert "| `--students` | `NLU_STUDENTS` | the shipped students | " in page
    assert "| `--port` | `NLU_PORT` | `8000` | " in page
    assert "| `--watch` | `NLU_WATCH` | off | " in page
    assert "| `--api-keys-file` | `NLU_API_KEYS_FILE` | none | " in page
    assert str(Path.home()) not in command_line_page()
    assert str(DOCS.parent) not in command_line_page()


def test_every_command_has_a_section() -> None:
    page = command_line_page()

    for name in COMMANDS:
        assert f"\n## {name}\n" in page
    assert "| `--ckpt` | yes |" in page


def test_every_endpoint_and_model_is_described() -> None:
    page = http_page()

    for route in ("POST /v1/nlu", "POST /v1/nlu/batch", "POST /v1/domain", "GET /v1/models", "GET /metrics"):
        assert f"| `{route}` |" in page
    assert "\n## NluReply\n" in page
    assert "| `text` | string | yes | the user's request, spoken or typed; not only white space |" in page
