"""The typed suite, with models whose answers are known."""

from __future__ import annotations

from pathlib import Path

from training.data import datasets
from training.data.utterances import Utterance
from training.evaluation.robustness import TypedSuite, render_suite
from training.evaluation.scoring import PredictedLabels


def perfect(utterance: Utterance) -> PredictedLabels:
    return PredictedLabels(utterance.domain, utterance.intent, utterance.slots)


def afraid_of_commas(utterance: Utterance) -> PredictedLabels:
    """Takes a text with a comma for another request."""
    return perfect(utterance) if "," not in utterance.text else PredictedLabels("none", "none", ())


def test_rows_say_what_a_way_of_typing_costs(sample: Path) -> None:
    suite = TypedSuite(datasets.load(str(sample), ["de-DE", "fr-FR"]).part("dev"))

    report = suite.report([afraid_of_commas(utterance) for utterance in suite.texts])

    assert next(iter(report["typed"])) == "comma"
    assert report["typed"]["comma"]["drop"] == [100, 100, 100]
    assert 0 < report["typed"]["wake word"]["drop"][0] < 100
    assert report["typed"]["quotes"]["drop"] == [0, 0, 0]
    assert "comma                       56    100.0      0.0   100.0" in render_suite(report["typed"], report["metric"])


def test_a_row_holds_only_what_its_rewriting_changes(sample: Path) -> None:
    dev = datasets.load(str(sample), ["de-DE", "fr-FR"]).part("dev")
    suite = TypedSuite(dev, limit=10)

    rows = suite.report([perfect(utterance) for utterance in suite.texts])["typed"]

    assert rows["emoji"]["utterances"] == {"de-DE": 10, "fr-FR": 10}
    assert rows["ae oe ue ss"]["utterances"] == {"de-DE": 10}
    assert set(rows["no apostrophe"]["utterances"]) == {"fr-FR"}
    assert all(row["drop"] == [0, 0, 0] for row in rows.values())


def test_utterances_without_labels_are_left_out() -> None:
    texts = [Utterance(str(i), f"weck mich um {i}", "de-DE", "dev", "alarm", "set") for i in range(5)]
    texts += [Utterance("9", "ohne alles", "de-DE", "dev"), Utterance("8", "sans tout", "fr-FR", "dev")]

    suite = TypedSuite(texts)

    rows = suite.report([perfect(utterance) for utterance in suite.texts])["typed"]
    assert rows["emoji"]["utterances"] == {"de-DE": 5}
    nothing = TypedSuite(texts[5:])
    assert nothing.report([PredictedLabels("a", "b") for _ in nothing.texts]) == {"metric": "", "typed": {}}
