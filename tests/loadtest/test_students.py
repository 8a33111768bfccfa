"""Which students a flag names."""

from __future__ import annotations

from loadtest.load.students import manifests_of
from service.student.shipped import SHIPPED_STUDENTS


def test_a_folder_stands_for_the_students_in_it() -> None:
    names = [manifest.name for manifest in manifests_of([SHIPPED_STUDENTS]).values()]

    assert names == [manifest.name for manifest in manifests_of([SHIPPED_STUDENTS / name for name in names]).values()]
    assert {"s", "xs"} <= set(names)
