"""The methods of `benchmarks.few_shot`: each learns from a sample and answers the utterances that are scored."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline, make_union
from tqdm import tqdm

from training.data.files import write_atomically
from training.data.formats.writers import jsonl
from training.data.utterances import Utterance
from training.evaluation.scoring import Scorecard

Found = dict[str, Any]  # accuracy and slot_f1, in percent, microseconds of CPU time of an answer, megabytes
STRENGTHS = (1.0, 10.0, 100.0)  # of which cross-validation chooses scikit-learn's C
LARGE = 3000  # utterances beyond which it does not: the middle one is taken
TIMED, BATCH = 200, 64
PREFIX = "query: "  # multilingual-e5's


def tfidf(sample: Sequence[Utterance], scored: Sequence[Utterance], seed: int) -> Found:
    """TF-IDF of words, word pairs and character n-grams, and logistic regression."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+")
    features = make_union(words, TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True))
    texts, intents = [u.text for u in sample], [str(u.intent) for u in sample]
    features.fit(texts)
    chosen = _fitted(features.transform(texts), intents, seed)
    model = make_pipeline(features, chosen)
    found = model.predict([u.text for u in scored])
    floats = sum(len(part.vocabulary_) for _, part in features.transformer_list) * len(chosen.classes_)
    return {
        "accuracy": _accuracy(found, scored),
        "microseconds": _time(lambda text: model.predict([text]), scored),
        "megabytes": round(4 * floats / 1e6, 1),
    }


def probe(sample: Sequence[Utterance], scored: Sequence[Utterance], seed: int, encoder: str, cache: Path) -> Found:
    """Logistic regression on mean-pooled sentence embeddings of a frozen encoder."""
    embed = Embedder(encoder, cache)
    vectors = embed([u.text for u in [*sample, *scored]])
    chosen = _fitted(vectors[: len(sample)], [str(u.intent) for u in sample], seed)
    found = chosen.predict(vectors[len(sample) :])
    return {
        "accuracy": _accuracy(found, scored),
        "microseconds": _time(lambda text: chosen.predict(embed.read([text])), scored),
        "megabytes": round(embed.megabytes, 1),
    }


def built(sample: Sequence[Utterance], scored: Sequence[Utterance], size: str, place: Path, minutes: float) -> Found:
    """The student that `distilled-nlu build` trains on the sample, exported in int8 without calibration."""
    from export import onnx
    from service.student.student import Student
    from training.ladder import RECIPE
    from training.models.prediction import answers_of_student
    from training.studies import engine
    from training.studies.ladder_recipe import Asked, ladder_recipe
    from training.studies.layout import Layout

    data = place / "sample.jsonl"
    write_atomically(data, jsonl(sample)[""])
    torch.set_num_threads(1)
    recipe = ladder_recipe(Asked("s", str(data), ("xs", "s"), minutes, from_shipped=True), place / RECIPE, 1)
    none = dict.fromkeys(("data", "generic", "partition", "encoder"))  # the recipe has them
    of_engine = {**none, "jobs": 1, "track": "", "report": False}
    engine.run(argparse.Namespace(recipe=recipe, out=place, until="runs", **of_engine))
    student = place / "students" / size
    if not student.exists():
        flags = ["--ckpt", str(Layout(place).run(size)), "--out", str(student), "--no-calibration"]
        if onnx.main(flags) != 0:
            raise RuntimeError(f"{size}: the export failed")
    opened = Student.load(student)
    scores = Scorecard.of(scored, answers_of_student(opened, scored), resamples=0).mean()
    return {
        "accuracy": round(scores["intent_accuracy"], 2),
        "slot_f1": round(scores["slot_f1"], 2) if sample[0].slots_annotated else None,
        "microseconds": _time(opened.predict, scored),
        "megabytes": round(sum(file.stat().st_size for file in student.iterdir()) / 1e6, 1),
    }


class Embedder:
    """Sentence embeddings of an encoder, of norm 1; those of texts that were read before are in a folder."""

    def __init__(self, encoder: str, cache: Path) -> None:
        """Load the encoder, which stays in evaluation mode."""
        from transformers import AutoModel, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(encoder)
        self._model = AutoModel.from_pretrained(encoder, dtype=torch.float32).eval()
        self._cache = cache / "embeddings"
        self.megabytes = 4 * sum(p.numel() for p in self._model.parameters()) / 1e6

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [texts, width]."""
        digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
        file = self._cache / f"{digest}.npy"
        if not file.exists():
            batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
            found = np.concatenate([self.read(batch) for batch in tqdm(batches, desc="embedding", disable=None)])
            self._cache.mkdir(parents=True, exist_ok=True)
            np.save(file, found)
        return np.asarray(np.load(file))

    def read(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings [texts, width], without the cache."""
        batch = self._tokenizer([PREFIX + text for text in texts], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        pooled = (states * mask).sum(1) / mask.sum(1)
        return np.asarray(torch.nn.functional.normalize(pooled, dim=-1).numpy())


def _fitted(features: Any, intents: Sequence[str], seed: int) -> BaseEstimator:
    """Logistic regression, its regularisation chosen by cross-validation on the sample."""
    model = LogisticRegression(C=STRENGTHS[1], max_iter=300)
    if len(intents) <= LARGE:
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"C": STRENGTHS}, cv=folds).fit(features, intents).best_estimator_
    return model.fit(features, intents)


def _accuracy(found: Sequence[str], scored: Sequence[Utterance]) -> float:
    return round(100 * float(np.mean([name == u.intent for name, u in zip(found, scored, strict=True)])), 2)


def _time(answer: Callable[[str], Any], scored: Sequence[Utterance]) -> float:
    """Median microseconds of CPU time of an answer to one text, on one thread."""
    threads, times = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for utterance in scored[:TIMED]:
        start = time.process_time()
        answer(utterance.text)
        times.append(time.process_time() - start)
    torch.set_num_threads(threads)
    return round(1e6 * median(times), 1)
