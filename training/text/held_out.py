"""Dev and test utterances, which are removed from all plain text that is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from training.data.utterances import Utterance
from training.text.corpus import same_text, same_utterance


def held_out_forms(utterances: Iterable[Utterance]) -> frozenset[str]:
    """The forms of dev and test utterances in which lines are compared with them."""
    return frozenset(same_utterance(same_text(u.text)) for u in utterances if u.partition != "train")


class HeldOut:
    """Removes lines that equal dev or test utterances but for case, spacing and punctuation.

    `removed` counts them by the setting that names the text.
    """

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        self._forms = held_out_forms(utterances)
        self.removed: Counter[str] = Counter()

    def without(self, lines: Iterable[str], setting: str) -> Iterator[str]:
        """The other lines, one at a time."""
        self.removed[setting] += 0
        for line in lines:
            if self._forms and same_utterance(same_text(line)) in self._forms:
                self.removed[setting] += 1
            else:
                yield line

    def facts(self) -> dict[str, int]:
        """The counts, for `training.json`."""
        return dict(self.removed)
