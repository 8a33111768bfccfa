"""Rewordings: in-domain sentences in which some words are others that occur in the same contexts.

A teacher answers them, and a student imitates it on sentences that the teacher has not learned by heart, as in TinyBERT
(Jiao et al. 2020, section 4.1). They need not be sensible: "wake me on friday" may become "wake them on sunday".
"""

from __future__ import annotations

import random
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix  # type: ignore[import-untyped]
from scipy.sparse.linalg import svds  # type: ignore[import-untyped]

WORD = re.compile(r"\w+(?:'\w*)?")
_TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")
OFFSETS = (-2, -1, 1, 2)  # places of the context words of a word
MAX_WORDS, MAX_CONTEXTS = 20_000, 3_000  # the most frequent ones
DIRECTIONS = 150
SMOOTHING = 0.75  # exponent of the context words' frequencies
DOMAIN_WEIGHT = 5  # of an in-domain sentence, as a number of other ones
MIN_CONTEXTS = 20  # of a word that stands in for others
NEIGHBOURS = 8
MIN_COSINE = 0.45
SHARES = (0.2, 0.4)  # of the words that are replaced; drawn for each sentence
DROPPED = 0.15  # probability that a sentence also loses a word
BATCH = 1024

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """For words of in-domain text the words nearest to them, with their weights; in lower case."""

    by_word: dict[str, tuple[list[str], list[float]]]

    @classmethod
    def of(cls, texts: Sequence[str], plain: Iterable[str] = ()) -> Neighbours:
        """Learn from in-domain texts and plain sentences of one language. Few texts give few neighbours.

        Words are vectors of positive pointwise mutual information with the context words at each offset, reduced by a
        singular value decomposition (Levy, Goldberg and Dagan 2015, with smoothed context frequencies).
        """
        domain = [_tokens(text) for text in texts]
        others = [_tokens(text) for text in plain]
        counts = Counter(word for tokens in others for word in tokens)
        own = Counter(word for tokens in domain for word in tokens)
        counts.update({word: DOMAIN_WEIGHT * count for word, count in own.items()})
        words = [word for word, _ in counts.most_common(MAX_WORDS)]
        ids = {word: i for i, word in enumerate(words)}
        matrix = _contexts([(tokens, DOMAIN_WEIGHT) for tokens in domain] + [(tokens, 1) for tokens in others], ids)
        directions = min(DIRECTIONS, min(matrix.shape) - 1)
        if directions < 1:
            return cls({})
        left, values, _ = svds(_mutual_information(matrix), k=directions, random_state=0)
        vectors = left * np.sqrt(values)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
        seen = np.asarray(matrix.sum(axis=1)).ravel()
        allowed = np.array(
            [i for word, i in ids.items() if WORD.match(word) and seen[i] >= MIN_CONTEXTS], dtype=np.int64
        )
        asked = np.array([ids[word] for word in own if word in ids and WORD.match(word)], dtype=np.int64)
        return cls(_nearest(words, vectors.astype(np.float32), asked, allowed))

    def reword(self, text: str, rng: random.Random) -> str:
        """The text with other words in some places, and perhaps without one of its words; or the text itself."""
        share = rng.choice(SHARES)

        def other(match: re.Match[str]) -> str:
            words, weights = self.by_word.get(match[0].lower(), ([], []))
            return rng.choices(words, weights)[0] if words and rng.random() < share else match[0]

        words = WORD.sub(other, text).split()
        if len(words) > 3 and rng.random() < DROPPED:
            del words[rng.randrange(len(words))]
        return " ".join(words)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text.lower())


def _contexts(sentences: Iterable[tuple[list[str], int]], ids: dict[str, int]) -> csr_matrix:
    """Weighted counts of each word's context words at each offset, [words, offsets x contexts].

    The last context of an offset is the edge of the sentence.
    """
    edge = min(len(ids), MAX_CONTEXTS)
    rows, columns, counts = array("i"), array("i"), array("f")
    for tokens, weight in sentences:
        known = [ids.get(token, -1) for token in tokens]
        contexts = [edge, *(i if i < edge else -1 for i in known), edge]
        for place, word in enumerate(known, start=1):
            for number, offset in enumerate(OFFSETS):
                at = place + offset
                if word >= 0 and 0 <= at < len(contexts) and contexts[at] >= 0:
                    rows.append(word)
                    columns.append(number * (edge + 1) + contexts[at])
                    counts.append(weight)
    shape = (len(ids), len(OFFSETS) * (edge + 1))
    return coo_matrix((np.array(counts), (np.array(rows), np.array(columns))), shape=shape).tocsr()


def _mutual_information(counts: csr_matrix) -> csr_matrix:
    """Positive pointwise mutual information, with smoothed context frequencies."""
    words = np.asarray(counts.sum(axis=1)).ravel()
    contexts = np.asarray(counts.sum(axis=0)).ravel() ** SMOOTHING
    found = counts.tocoo()
    expected = words[found.row] * (contexts / contexts.sum())[found.col]
    information = np.maximum(np.log(found.data / expected), 0).astype(np.float32)
    return coo_matrix((information, (found.row, found.col)), shape=counts.shape).tocsr()


def _nearest(
    words: Sequence[str], vectors: Floats, asked: Ids, allowed: Ids
) -> dict[str, tuple[list[str], list[float]]]:
    """The nearest allowed words of each asked one, with the fourth power of their cosine as weight."""
    found: dict[str, tuple[list[str], list[float]]] = {}
    for start in range(0, len(asked) if len(allowed) else 0, BATCH):
        part = asked[start : start + BATCH]
        cosines = vectors[part] @ vectors[allowed].T
        for word, row in zip(part, cosines, strict=True):
            best = np.argsort(-row, kind="stable")[: NEIGHBOURS + 1]
            near = [(words[allowed[i]], float(row[i]) ** 4) for i in best if allowed[i] != word and row[i] > MIN_COSINE]
            if near:
                found[words[word]] = ([name for name, _ in near], [weight for _, weight in near])
    return found
