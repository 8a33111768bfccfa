"""Small multilingual NLU students: train them, convert them to quantised ONNX, serve them, compare them.

From Python, without a server::

    from distilled_nlu import Student

    student = Student.load("s")
    result = student("weck mich um neun uhr", locale="de-DE")
    result.intent.name, [(slot.name, slot.value) for slot in result.slots]

A running service is asked with `distilled_nlu.client`. On the command line: ``distilled-nlu --help``. Importing this
package loads nothing else; its names load what they need when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilled_nlu.results import Label, Result, Slot
    from distilled_nlu.student import Student
    from service.student.manifest import StudentError
    from service.student.shipped import shipped_students

__all__ = ["Label", "Result", "Slot", "Student", "StudentError", "shipped_students"]

_MODULES = {
    **dict.fromkeys(("Label", "Result", "Slot"), "distilled_nlu.results"),
    "Student": "distilled_nlu.student",
    "StudentError": "service.student.manifest",
    "shipped_students": "service.student.shipped",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
