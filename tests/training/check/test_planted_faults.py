"""Planted faults are found: in the sample, and in all of Snips where SNIPS_DIR names its folder."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from service.student.shipped import student_folder
from tests.training.check.planted import Planted, plant
from training.check import duplicates, labels
from training.check.report import Report, Settings, check
from training.data.datasets import load
from training.data.utterances import Utterance

SNIPS = "SNIPS_DIR"


def checked(planted: Planted, seed: int) -> Report:
    return check(planted.utterances, [], Settings(student_folder("s"), seed))


def ids(report: Report, kind: str) -> list[str]:
    """The ids of the utterances of a kind's findings, in their order."""
    found = (report.utterances[row].id for finding in report.findings[kind] for row in finding.rows)
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def sample_utterances(sample: Path) -> list[Utterance]:
    return [replace(u, id=f"{u.locale}-{u.id}") for u in load(str(sample), ["de-DE", "en-US"]).utterances]


@pytest.fixture(scope="module")
def snips() -> list[Utterance]:
    """The full training files of Snips (2017), a fifth of it as test."""
    folder = os.environ.get(SNIPS)
    if not folder:
        pytest.skip(f"set {SNIPS} to the folder of Snips 2017 with train_*_full.json or train_*_full.json.gz")
    utterances = []
    for file in sorted(Path(folder).glob("train_*_full.json*")):
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        for intent, rows in json.loads(raw.decode("utf-8", "replace")).items():
            for number, row in enumerate(rows):
                text = "".join(part["text"] for part in row["data"]).strip()
                partition = "train" if number % 5 else "test"
                utterances.append(Utterance(f"{intent}-{number}", text, "en-US", partition, None, intent))
    return utterances


def test_planted_faults_in_the_sample_are_found(sample_utterances: list[Utterance]) -> None:
    planted = plant(sample_utterances, seed=1, wrong=0.05, copied=0.02, contradictions=5)

    report = checked(planted, seed=1)

    assert planted.copies <= set(ids(report, "leaks"))
    assert planted.contradictions <= set(ids(report, "contradictions"))
    suspected = ids(report, "label_errors")[:10]
    assert len(planted.wrong.intersection(suspected)) >= 7  # the sample is small: its classifier is right in 3 of 4


def test_the_sample_has_no_errors(sample_utterances: list[Utterance]) -> None:
    checks = (duplicates.contradictions, duplicates.leaks, duplicates.near_leaks, labels.variants, labels.unseen)

    assert [found for one in checks for found in one(sample_utterances)] == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_planted_faults_in_snips_are_found(snips: list[Utterance], seed: int) -> None:
    planted = plant(snips, seed, wrong=0.05, copied=0.02, contradictions=20)

    report = checked(planted, seed)

    assert planted.copies <= set(ids(report, "leaks"))
    assert planted.contradictions <= set(ids(report, "contradictions"))
    suspected = ids(report, "label_errors")
    found, first = planted.wrong.intersection(suspected), planted.wrong.intersection(suspected[:100])
    print(f"seed {seed}: {len(suspected)} suspected labels, {len(found)} of the {len(planted.wrong)} planted")
    print(f"seed {seed}: {len(first)} of the first 100 suspected labels are planted")
    assert len(first) >= 70
