"""A simple classifier of texts, and its predictions for utterances that it was not trained on.

TF-IDF of words, word pairs and character n-grams, and logistic regression (scikit-learn). One model a language, in
cross-validation: copies of a text are always in the same fold, or the classifier would only remember their labels.
"""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_union

from training.check.texts import grouped, key_of, language_of
from training.data.utterances import Utterance

FOLDS = 5
FOLDS_OF_LARGE = 3  # where time matters more, and the rest is large enough to learn from
LARGE = 5000  # utterances of a language
MAX_FEATURES = 20_000  # of words, and as many of characters
REGULARISATION = 3.0  # scikit-learn's C
TOLERANCE = 1e-3  # a smaller one takes a multiple of the time, and ranks suspects the same
MAX_ITERATIONS = 100

Floats = NDArray[np.float32]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold probabilities of the labelled utterances of one language ("de").

    `rows` are positions of utterances, `names` the labels in alphabetical order, `given` [rows] the index of each
    row's own label, `probabilities` [rows, names]. `features` [rows, features] is the TF-IDF matrix, rows of norm 1.
    """

    language: str
    rows: NDArray[np.int64]
    names: list[str]
    given: NDArray[np.int64]
    probabilities: Floats
    features: Any

    @property
    def predicted(self) -> NDArray[np.int64]:
        """The index of the most probable label of each row."""
        return np.asarray(self.probabilities.argmax(axis=1))


def features_of(texts: Sequence[str]) -> Any:
    """TF-IDF of the texts, a sparse matrix [texts, features]; rows have norm 1, or 0 without any feature."""
    settings: dict[str, Any] = {"sublinear_tf": True, "max_features": MAX_FEATURES, "dtype": np.float32}
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\S+", **settings)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), **settings)
    return make_union(words, characters).fit_transform(texts).tocsr() * np.float32(2**-0.5)


def predict_out_of_fold(
    utterances: Sequence[Utterance], head: str, seed: int, progress: Progress = lambda _: None
) -> list[Predictions]:
    """Predict each utterance's label of a head, "intent" or "domain", with a model that has not seen its text.

    One element for each language that has at least two labels; `progress` is told before each training. The same
    utterances and seed give the same predictions.
    """
    labelled = [row for row, utterance in enumerate(utterances) if getattr(utterance, head) is not None]
    found = []
    for language, rows in grouped(labelled, lambda row: language_of(utterances[row].locale)).items():
        labels = [str(getattr(utterances[row], head)) for row in rows]
        names = sorted(set(labels))
        if len(names) < 2 or len(rows) < FOLDS:
            continue
        progress(f"{language}: features")
        texts = [utterances[row].text for row in rows]
        features = features_of(texts)
        given = np.array([names.index(label) for label in labels])
        count = FOLDS if len(rows) < LARGE else FOLDS_OF_LARGE
        folds = folds_of(texts, given, count, seed)
        probabilities = np.zeros((len(rows), len(names)), np.float32)
        for fold in range(count):
            progress(f"{language}: classifier {fold + 1} of {count}")
            held_out = folds == fold
            if held_out.any():
                predicted, known = _predict(features[~held_out], given[~held_out], features[held_out])
                probabilities[np.ix_(held_out, known)] = predicted
        found.append(Predictions(language, np.array(rows), names, given, probabilities, features))
    return found


def folds_of(texts: Sequence[str], labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """One of `count` folds for each text: shuffled, each label spread evenly, copies of a text together."""
    copies = list(grouped(range(len(texts)), lambda i: key_of(texts[i])).values())
    random.Random(seed).shuffle(copies)
    folds = np.zeros(len(texts), np.int64)
    next_fold: dict[int, int] = defaultdict(int)
    for same in copies:
        label = int(labels[same[0]])
        folds[same] = (next_fold[label] + label) % count  # labels of few texts don't all begin at fold 0
        next_fold[label] += 1
    return folds


def _predict(
    features: Any, labels: NDArray[np.int64], asked: Any
) -> tuple[NDArray[np.float64], NDArray[np.int64] | list[int]]:
    """Train on labelled rows: the probabilities of the asked rows, and which labels their columns stand for."""
    if len(set(labels.tolist())) == 1:
        return np.ones((asked.shape[0], 1)), [int(labels[0])]
    model = LogisticRegression(C=REGULARISATION, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly converged weights rank as well
        model.fit(features, labels)
    return model.predict_proba(asked), model.classes_
