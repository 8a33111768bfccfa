"""Values of JSON of a required type: an error names the field, what was found and what is allowed."""

from __future__ import annotations

from typing import Any

from training.data.utterances import RecordError


def record_of(value: Any, field: str) -> dict[str, Any]:
    """A JSON object; none is an empty one. Raises RecordError: another type."""
    return dict(_of(value, field, dict, "an object") or {})


def list_of(value: Any, field: str) -> list[Any]:
    """A list; none is an empty one. Raises RecordError: another type."""
    return list(_of(value, field, list, "a list") or [])


def label_of(value: Any, field: str) -> str | None:
    """A text, or none. Raises RecordError: another type."""
    found = _of(value, field, str, "a string")
    return str(found) if found else None


def text_of(value: Any, field: str) -> str:
    """A text that has to be there. Raises RecordError: it is missing, empty or of another type."""
    if not (found := label_of(value, field)):
        raise RecordError(field, f"is {value!r}; allowed: a non-empty string")
    return found


def number_of(value: Any, field: str) -> int:
    """A whole number. Raises RecordError: another type."""
    if type(value) is not int:
        raise RecordError(field, f"is {value!r}; allowed: a whole number")
    return value


def _of(value: Any, field: str, kind: type, allowed: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise RecordError(field, f"is {value!r}; allowed: {allowed}")
    return value
