"""Tails: the utterances of a partition that are rare, or hold values or words that are missing in training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from training.data.utterances import Utterance

TAILS = ("tail_test", "tail_unseen_value", "tail_unseen_word")
RARE = 3


def tail_of(name: str, evaluated: Sequence[Utterance], train: Sequence[Utterance]) -> list[Utterance]:
    """One tail of `evaluated`, counted within each locale.

    - ``tail_test``: the points whose text occurs three times or less in the evaluated set, as *Knowledge Distillation
      Transfer Sets and their Impact on Downstream NLU Tasks* (EMNLP 2022) defines it. It needs real frequencies: a
      deduplicated set is nearly all tail.
    - ``tail_unseen_value``: at least one slot value does not occur in train under that slot.
    - ``tail_unseen_word``: at least one word (between white space) does not occur in train.
    """
    if name == "tail_test":
        belongs = _rare(evaluated)
    elif name == "tail_unseen_value":
        belongs = _unseen_value(train)
    else:
        belongs = _unseen_word(train)
    return [utterance for utterance in evaluated if belongs(utterance)]


def _rare(evaluated: Sequence[Utterance]) -> Callable[[Utterance], bool]:
    counts = Counter((u.locale, u.text) for u in evaluated)
    return lambda u: counts[u.locale, u.text] <= RARE


def _unseen_value(train: Sequence[Utterance]) -> Callable[[Utterance], bool]:
    seen = {(u.locale, slot.name, u.value(slot)) for u in train for slot in u.slots}
    return lambda u: any((u.locale, slot.name, u.value(slot)) not in seen for slot in u.slots)


def _unseen_word(train: Sequence[Utterance]) -> Callable[[Utterance], bool]:
    seen = {(u.locale, word) for u in train for word in u.text.split()}
    return lambda u: any((u.locale, word) not in seen for word in u.text.split())
