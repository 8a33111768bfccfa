from __future__ import annotations

from training.data.annotation import parse
from training.data.utterances import Utterance
from training.evaluation.mistakes import mistakes_of
from training.evaluation.scoring import PredictedLabels


def pair(expected: str, intent: str, found: str, answered: str) -> tuple[Utterance, PredictedLabels]:
    text, slots = parse(expected)
    return Utterance("1", text, "de-DE", "dev", "d", intent, slots), PredictedLabels("d", answered, parse(found)[1])


def test_mistakes_by_hand() -> None:
    pairs = [
        pair("weck mich [time : um neun]", "alarm", "weck mich um [time : neun]", "alarm"),
        pair("spiel [song : eins]", "play", "spiel [song : eins]", "play"),
        pair("spiel [song : zwei]", "play", "spiel [song : zwei]", "alarm"),
        pair("stopp", "stop", "[song : stopp]", "stop"),
    ]

    found = mistakes_of(*zip(*pairs, strict=True))

    assert (found["utterances"], found["wrong"]) == (4, 3)
    assert [text["text"] for text in found["texts"]] == ["weck mich um neun", "spiel zwei", "stopp"]
    assert found["texts"][0]["slots"] == [["time", "um neun"]]
    assert found["texts"][0]["answered_slots"] == [["time", "neun"]]
    assert found["intents"] == [
        {"intent": "alarm", "count": 1, "precision": 50.0, "recall": 100.0, "f1": 66.7, "taken_for": {}},
        {"intent": "play", "count": 2, "precision": 100.0, "recall": 50.0, "f1": 66.7, "taken_for": {"alarm": 1}},
        {"intent": "stop", "count": 1, "precision": 100.0, "recall": 100.0, "f1": 100.0, "taken_for": {}},
    ]
    assert found["slots"] == [
        {"slot": "time", "count": 1, "precision": 0.0, "recall": 0.0, "f1": 0.0},
        {"slot": "song", "count": 2, "precision": 66.7, "recall": 100.0, "f1": 80.0},
    ]


def test_heads_that_a_student_lacks_have_no_mistakes() -> None:
    utterance = Utterance("1", "stopp", "de-DE", "dev", None, "stop")

    found = mistakes_of([utterance], [PredictedLabels(None, None, None)])

    assert (found["wrong"], found["intents"], found["slots"], found["texts"]) == (0, [], [], [])


def test_slots_that_are_not_annotated_are_no_mistakes() -> None:
    utterance = Utterance("1", "stopp", "de-DE", "dev", None, "stop", slots_annotated=False)

    found = mistakes_of([utterance], [PredictedLabels(None, "stop", parse("[song : stopp]")[1])])

    assert (found["wrong"], found["texts"], found["slots"]) == (0, [], [])
