"""Which students a flag names."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.load.students import manifests_of, student_folder
from service.settings import SHIPPED_STUDENTS


def test_a_shipped_student_goes_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert student_folder("xs") == SHIPPED_STUDENTS / "xs"

    (tmp_path / "xs").mkdir()  # of two, the folder that is there
    assert student_folder("xs") == Path("xs")
    assert student_folder("nowhere") == Path("nowhere")


def test_a_folder_stands_for_the_students_in_it() -> None:
    names = [manifest.name for manifest in manifests_of([SHIPPED_STUDENTS]).values()]

    assert names == [manifest.name for manifest in manifests_of([SHIPPED_STUDENTS / name for name in names]).values()]
    assert {"s", "xs"} <= set(names)
