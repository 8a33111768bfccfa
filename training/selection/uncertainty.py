"""How unsure a student is of its answer to a text: margin sampling over intent and slots.

The margin is the difference of the two highest probabilities (Scheffer et al. 2001). An answer is right where the
intent and the tag of every word are, so its certainty is the product of the intent's margin and of the lowest margin of
a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.student.decoding import softmax


def uncertainty(logits: Mapping[str, NDArray[Any]], first_tokens: Sequence[int]) -> float:
    """0 (sure) to 1, of a text's logits: intent [I], else domain [D], and slots [tokens, tags] at the words' tokens."""
    certainty = 1.0
    if (head := next((name for name in ("intent", "domain") if name in logits), None)) is not None:
        certainty = margin(logits[head])
    if "slots" in logits and len(first_tokens):
        certainty *= min(margin(logits["slots"][token]) for token in first_tokens)
    return 1.0 - certainty


def margin(logits: NDArray[Any]) -> float:
    """The difference of the two highest probabilities, 0 to 1, of logits [labels]; 1 of a single label."""
    if len(logits) < 2:
        return 1.0
    second, first = np.sort(softmax(np.asarray(logits, dtype=np.float32)))[-2:]
    return float(first - second)
