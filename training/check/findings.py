"""What a check finds: the kinds of findings in order of severity, and one finding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Level = Literal["error", "warning", "note"]


class Kind(NamedTuple):
    """A kind of finding: its title, how serious it is, and what to do."""

    title: str
    level: Level
    advice: str


KINDS: Mapping[str, Kind] = {  # the most serious first
    "contradictions": Kind(
        "Contradictions: the same text with other labels",
        "error",
        "Decide on one labelling of each text and change or delete the other rows.",
    ),
    "leaks": Kind(
        "Leaks: the same text in two partitions",
        "error",
        "Keep each text in one partition: delete the copies in train, or split again by text.",
    ),
    "label_variants": Kind(
        "Labels that differ in case, space or separators only",
        "error",
        "Choose one spelling and rename the others; a student learns them as different labels.",
    ),
    "unseen_labels": Kind(
        "Labels of dev or test that are not in train",
        "error",
        "Add training rows, or remove the label: no student can learn it.",
    ),
    "label_errors": Kind(
        "Probable label errors",
        "warning",
        "Read them from the top and correct the wrong ones; the list is ordered by how sure the classifier is.",
    ),
    "wrong_language": Kind(
        "Texts whose language does not match their locale",
        "warning",
        "Correct the locale, or delete the rows.",
    ),
    "near_leaks": Kind(
        "Near leaks: almost the same text in two partitions",
        "warning",
        "Scores on them are too good. Move such pairs into one partition, at least for the reported test set.",
    ),
    "rare_intents": Kind(
        "Rare intents",
        "warning",
        "Write more utterances of them, or merge them with another intent.",
    ),
    "confused_intents": Kind(
        "Intents that a simple classifier confuses",
        "warning",
        "Read the pairs: write down the rule that tells the two apart and relabel by it, or merge the intents.",
    ),
    "slot_overlaps": Kind(
        "Slots that share values",
        "warning",
        "Check that the context tells them apart; merge slots that mean the same.",
    ),
    "too_long": Kind(
        "Texts longer than the student reads",
        "warning",
        "Shorten or delete them, or train with a larger --max-length.",
    ),
    "unknown_tokens": Kind(
        "Texts with characters that the student's tokenizer does not know",
        "warning",
        "Correct broken characters; if they belong to the language, train a tokenizer on your data.",
    ),
    "outliers": Kind(
        "Outliers: texts unlike all others of their locale",
        "note",
        "Look for wrong rows and out-of-scope text; a rare but right request may stay.",
    ),
    "duplicates": Kind(
        "Repeated texts with the same labels in one partition",
        "note",
        "They weigh more in training and in scores; keep them only if users really repeat them.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """One finding: a line that says what was found, the positions of the utterances concerned, and figures.

    `pairs` holds positions of utterances that are to be read side by side.
    """

    message: str
    rows: tuple[int, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    pairs: tuple[tuple[int, int], ...] = ()
