"""The search space: one pipeline from a trial's choices.

`cross_entropy` is left out: its gradient is that of `kl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from training.data.policy import CONTEXTUAL, KINDS, NONE, PARAPHRASED, Step
from training.runs.settings import EMD, HIDDEN_LOSSES, MI

VIEWS = 2  # variants of each utterance, which the teacher reads
CHOICES: dict[str, tuple[Any, ...]] = {
    "prediction_loss": ("kl", "mse"),
    "temperature": (1.0, 2.0, 4.0),
    "teacher_weight": (0.5, 0.7, 0.9),
    "hidden_loss": (NONE, *HIDDEN_LOSSES, MI),
    "hidden_weight": (0.1, 1.0, 10.0),
    "layer_mapping": ("uniform", "last", EMD),
    "mi_alpha": (0.1, 0.5, 0.9),
    "mixup": (0.0, 0.4),
    **{name: (0.0, 0.3) for name in KINDS if name != PARAPHRASED},  # the share of the utterances
    "strength": (0.1, 0.3),  # of contextual and random changes
    "order": ("words first", "words last"),  # of changes to words, and the others
}
WORDS = (CONTEXTUAL, "random")
FIXED = {"views": VIEWS}
# Without a teacher, and with its logits alone
CONTROLS: dict[str, dict[str, Any]] = {
    "plain": {"augmentation": NONE, **FIXED},
    "prediction": {"augmentation": NONE, "prediction_loss": "kl", "temperature": 2.0, "teacher_weight": 0.7, **FIXED},
}


class Trial(Protocol):
    """What is asked of a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""


def suggest(trial: Trial, augmentations: Sequence[str]) -> dict[str, Any]:
    """A pipeline; `augmentations` are the names of `KINDS` that are available.

    Parts that have no effect are left out.
    """

    def choose(name: str) -> Any:
        return trial.suggest_categorical(name, CHOICES[name])

    found = {name: choose(name) for name in ("prediction_loss", "teacher_weight", "hidden_loss", "mixup")}
    if found["prediction_loss"] != "mse":
        found["temperature"] = choose("temperature")
    if found["hidden_loss"] != NONE:
        found |= {name: choose(name) for name in ("hidden_weight", "layer_mapping")}
    if found["hidden_loss"] == MI:
        found["mi_alpha"] = choose("mi_alpha")
    shares = {name: share for name in augmentations if (share := choose(name))}
    words = [name for name in shares if name in WORDS]
    strength = choose("strength") if words else 0.0
    if words and len(words) < len(shares) and choose("order") == "words last":
        shares = {name: shares[name] for name in (*(x for x in shares if x not in WORDS), *words)}
    steps = [
        Step(name, share, strength if name in WORDS else KINDS[name].strength or 0.0) for name, share in shares.items()
    ]
    return {**found, "augmentation": ",".join(map(str, steps)) or NONE, **FIXED}
