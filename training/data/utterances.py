"""The one record type that every data set is read into."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, get_args

Partition = Literal["train", "dev", "test"]
PARTITIONS: tuple[Partition, ...] = get_args(Partition)


class RecordError(ValueError):
    """An invalid row: `field` is wrong; the message says what was found and what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class DatasetError(ValueError):
    """A data set that can't be used; the message names file, line and field, what was found and what is allowed."""


_SLOT_NAME = re.compile(r"[^\s\[\]](?:[^\n\r\[\]]*[^\s\[\]])?")


@lru_cache(maxsize=4096)
def check_slot_name(name: str, field: str = "slots") -> None:
    """Refuse what is no slot name; the rule is the same in every format. Raises RecordError for the `field`."""
    if not _SLOT_NAME.fullmatch(name) or " : " in name:
        allowed = (
            "a text without square brackets, ' : ', line breaks and outer spaces, such as 'city' or 'to.city_name'"
        )
        raise RecordError(field, f"slot name {name!r}; allowed: {allowed}")


@dataclass(frozen=True, slots=True)
class Slot:
    """A labelled span; `start` and `end` (exclusive) are code points of the raw text."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Utterance:
    """One labelled request.

    `id` is the same for the translations of one sentence, so splits are made by id. `domain` and `intent` may be
    None in unlabelled text. Slots are in order of `start` and don't overlap. `slots_annotated` tells
    "annotated as having no slots" from "not annotated"; it takes no part in comparison, representation and checksum.

    Raises RecordError: text blank, partition unknown, or a slot out of range, empty or overlapping.
    """

    id: str
    text: str
    locale: str
    partition: Partition = "train"
    domain: str | None = None
    intent: str | None = None
    slots: tuple[Slot, ...] = field(default=())
    slots_annotated: bool = field(default=True, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecordError("text", "is blank; every utterance needs text")
        if self.partition not in PARTITIONS:
            raise RecordError("partition", f"is {self.partition!r}; allowed: {', '.join(PARTITIONS)}")
        end = 0
        for slot in self.slots:
            if not 0 <= slot.start < slot.end <= len(self.text):
                allowed = f"allowed: 0 <= start < end <= {len(self.text)}"
                raise RecordError("slots", f"{slot.name!r} has offsets {slot.start}..{slot.end}; {allowed}")
            if slot.start < end:
                problem = "overlaps the slot before it, or is out of order"
                raise RecordError("slots", f"{slot.name!r} at {slot.start} {problem}")
            end = slot.end

    def value(self, slot: Slot) -> str:
        """The text of a slot."""
        return self.text[slot.start : slot.end]


def checksum_of(utterances: Sequence[Utterance]) -> str:
    """A checksum of labelled utterances."""
    digest = hashlib.blake2b(digest_size=16)
    for utterance in utterances:
        digest.update(f"{utterance!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
