from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score as seqeval_f1
from sklearn.metrics import f1_score as sklearn_f1

from service.student.decoding import spans_of_tags
from training.data.annotation import parse
from training.data.utterances import Utterance
from training.evaluation.paired import compare
from training.evaluation.scoring import (
    PredictedLabels,
    Scorecard,
    Scores,
    count_spans,
    interval,
    macro_f1,
    massive_spans,
    reference_words,
    score_by_locale,
    semantic_errors,
    weights_of,
    with_mean,
)

TAGS = ["O", "B-x", "I-x", "B-y", "I-y"]
tag_pairs = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), min_size=1, max_size=8), min_size=1, max_size=5
)


def utterance(
    annotated: str,
    intent: str = "i",
    domain: str = "d",
    id_: str = "1",
    locale: str = "de-DE",
    slots_annotated: bool = True,
) -> Utterance:
    text, slots = parse(annotated)
    return Utterance(id_, text, locale, "dev", domain, intent, slots, slots_annotated)


def answer(annotated: str, intent: str = "i", domain: str = "d") -> PredictedLabels:
    return PredictedLabels(domain, intent, parse(annotated)[1])


@given(tag_pairs)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_strict_slot_f1_is_that_of_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    expected = [[pair[0] for pair in sentence] for sentence in sentences]
    found = [[pair[1] for pair in sentence] for sentence in sentences]

    counts = np.sum(
        [count_spans(spans_of_tags(e), spans_of_tags(f)) for e, f in zip(expected, found, strict=True)], axis=0
    )

    if counts[1] + counts[2]:  # seqeval calls nothing found of nothing 0, this project null
        assert 2 * counts[0] / (counts[1] + counts[2]) == pytest.approx(seqeval_f1(expected, found, zero_division=0))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    array = np.array(pairs)

    found = macro_f1(array[:, 0], array[:, 1], 4, weights_of(len(pairs), 0))
    assert found == pytest.approx(sklearn_f1(array[:, 0], array[:, 1], average="macro", zero_division=0))


def test_massive_scoring_merges_adjacent_slots_of_one_type() -> None:
    tags = ["B-x", "B-x", "O", "I-x", "B-y"]

    assert spans_of_tags(tags) == [("x", 0, 1), ("x", 1, 2), ("x", 3, 4), ("y", 4, 5)]
    assert massive_spans(tags) == [("x", 0, 2), ("x", 3, 4), ("y", 4, 5)]


@pytest.mark.parametrize(
    ("expected", "found", "intent", "errors"),
    [
        ("um [time : neun] [date : morgen]", "um [time : neun] [date : morgen]", "i", (0, 3)),
        ("um [time : neun] [date : morgen]", "um [time : neun] morgen", "i", (1, 3)),  # deletion
        ("um neun [date : morgen]", "um [time : neun] [date : morgen]", "i", (1, 2)),  # insertion
        ("um [time : neun uhr] auf", "um [time : neun] uhr auf", "i", (1, 2)),  # substitution
        ("um [time : neun] uhr", "um [date : neun] uhr", "i", (2, 2)),  # another slot: deletion and insertion
        ("um [time : neun] uhr", "um [time : neun] uhr", "other", (1, 2)),  # intent
        ("ja", "[x : ja]", "other", (2, 1)),
    ],
)
def test_semer_counts_by_hand(expected: str, found: str, intent: str, errors: tuple[int, int]) -> None:
    assert semantic_errors(utterance(expected), answer(found, intent)) == errors


def test_every_metric_by_hand() -> None:
    references = [
        utterance("wecker um [time : neun]", "alarm_set", "alarm"),
        utterance("spiel [genre : jazz] [genre : musik]", "play_music", "play"),
        utterance("wie wird das wetter", "weather_query", "weather"),
        utterance("stopp", "audio_stop", "audio"),
    ]
    answers = [
        answer("wecker um [time : neun]", "alarm_set", "alarm"),
        answer("spiel [genre : jazz musik]", "play_music", "play"),
        answer("wie [date : wird] das wetter", "weather_query", "weather"),
        answer("stopp", "play_music", "play"),
    ]

    metrics = Scores(references, answers).values

    assert metrics["domain_accuracy"] == metrics["intent_accuracy"] == 75
    assert metrics["icer"] == 25
    assert metrics["domain_f1"] == pytest.approx(100 * (1 + 2 / 3 + 1 + 0) / 4)
    assert metrics["slot_f1"] == pytest.approx(100 * 2 * 2 / (3 + 2))  # merged: time and genre right, date surplus
    assert metrics["slot_f1_strict"] == pytest.approx(100 * 2 * 1 / (3 + 3))
    assert metrics["exact_match"] == 50
    assert metrics["irer"] == 50
    # genre: one substitution and one deletion; date: insertion; one intent; 3 reference slots + 4 utterances
    assert metrics["semer"] == pytest.approx(100 * 4 / 7)


def test_a_model_without_a_head_has_no_metrics_of_it() -> None:
    metrics = Scores([utterance("ja", domain="a")], [PredictedLabels(domain="a")]).values

    assert set(metrics) == {"domain_accuracy", "domain_f1"}


def test_utterances_without_a_label_count_for_none_of_its_metrics() -> None:
    labelled, unlabelled = utterance("um [time : neun]"), Utterance("2", "ja", "de-DE", "dev")

    metrics = Scores([labelled, unlabelled], [answer("um [time : neun]"), answer("ja")]).values

    assert metrics["intent_accuracy"] == metrics["domain_f1"] == metrics["exact_match"] == 100
    assert metrics["semer"] == metrics["irer"] == 0


def test_where_no_slots_are_annotated_exact_match_is_the_intent_and_slot_metrics_are_null() -> None:
    references = [utterance("ja", intent, slots_annotated=False) for intent in ("a", "b", "b", "b")]

    report = Scorecard.of(references, [answer("[x : ja]", "b", "other")] * 4).report()

    mean = report["mean"]
    assert mean["slot_f1"] is mean["slot_f1_strict"] is mean["semer"] is None
    assert mean["intent_accuracy"][0] == mean["exact_match"][0] == 75
    assert mean["irer"][0] == 100
    assert report["slots_annotated"] == {"de-DE": 0}


def test_a_model_without_slots_has_an_exact_match_where_none_are_annotated() -> None:
    found = [PredictedLabels(intent="i")]

    assert "exact_match" not in Scores([utterance("ja")], found).values
    assert Scores([utterance("ja", slots_annotated=False)], found).values["exact_match"] == 100


def test_slots_are_scored_on_the_annotated_utterances_alone() -> None:
    annotated, other = utterance("um [time : neun]"), utterance("um neun", id_="2", slots_annotated=False)
    answers = [answer("um [time : neun]"), answer("[date : um] neun", "wrong")]

    metrics = Scores([annotated, other], answers).values

    assert metrics["slot_f1"] == metrics["slot_f1_strict"] == metrics["exact_match"] == 100
    assert metrics["semer"] == metrics["irer"] == 0
    assert metrics["intent_accuracy"] == 50


def test_a_locale_without_annotated_slots_is_left_out_of_the_mean_of_slot_metrics() -> None:
    references = [utterance("um [time : neun]"), utterance("oui", locale="fr-FR", slots_annotated=False)]

    scores = score_by_locale(references, [answer("um [time : neun]"), answer("[x : oui]", "wrong")])

    for metric in ("slot_f1", "exact_match"):
        assert [scores[locale][metric] for locale in ("de-DE", "fr-FR", "mean")] == [100, None, 100]
    assert scores["mean"]["intent_accuracy"] == 50


@pytest.mark.parametrize(("found", "slot_f1"), [("ja", None), ("[x : ja]", 0.0)])
def test_slot_f1_of_utterances_that_have_no_slots(found: str, slot_f1: float | None) -> None:
    scores = score_by_locale([utterance("ja")], [answer(found)])["mean"]

    assert scores["slot_f1"] == slot_f1
    assert scores["exact_match"] == (100 if slot_f1 is None else 0)


def test_labels_that_nobody_annotated_have_null_metrics() -> None:
    scores = score_by_locale([Utterance("1", "ja", "de-DE", "dev", intent="i")], [answer("ja")])["mean"]

    assert scores["domain_f1"] is scores["domain_accuracy"] is scores["irer"] is None


def test_the_difference_of_what_is_not_annotated_is_null() -> None:
    references = [utterance("um [time : neun]"), utterance("oui", locale="fr-FR", slots_annotated=False)]
    card = Scorecard.of(references, [answer("um [time : neun]"), answer("oui")])

    differences = compare(card, card)

    assert differences["locales"]["fr-FR"]["exact_match"] is None
    assert differences["locales"]["de-DE"]["exact_match"] == [0, 0, 0]
    assert list(differences["exact_match"]) == ["de-DE"]


def test_a_domain_that_is_only_predicted_lowers_macro_f1() -> None:
    references = [utterance("ja", domain="a"), utterance("ja", domain="a")]

    metrics = Scores(references, [PredictedLabels(domain="a"), PredictedLabels(domain="b")]).values

    assert metrics["domain_f1"] == pytest.approx(100 * (2 / 3 + 0) / 2)


def test_words_are_tokens_between_spaces_or_characters() -> None:
    assert reference_words(" weck  mich", "de-DE") == [(1, 5), (7, 11)]
    assert reference_words("金 曜", "ja-JP") == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ("mach das [room : keller]licht an", True),
        ("mach das [room : kellerlicht] an", False),
        ("[room : mach das keller]licht an", False),
        ("mach das kellerlicht an", False),
        ("mach das [room : keller][device : licht] an", False),
    ],
)
def test_a_slot_within_a_word_is_not_the_word(found: str, right: bool) -> None:
    scores = score_by_locale([utterance("mach das [room : keller]licht an")], [answer(found)])["mean"]

    assert scores["exact_match"] == 100 * right
    assert (scores["slot_f1"] == 100) == right


def test_a_slot_that_ends_after_a_tone_mark_is_not_the_whole_run() -> None:
    expected, found = utterance("ไป[place : ที่]นี่", locale="th-TH"), answer("ไป[place : ที่นี่]")

    assert score_by_locale([expected], [found])["mean"]["slot_f1"] == 0


def test_marks_at_the_edge_of_a_value_do_not_matter() -> None:
    scores = score_by_locale([utterance("spiel '[song : s.o.s.]'!")], [answer("spiel '[song : s.o.s].'!")])["mean"]

    assert scores["exact_match"] == scores["slot_f1"] == 100


def test_an_interval_holds_the_value_and_shrinks_with_the_sample() -> None:
    def width(count: int) -> float:
        references = [utterance("ja", domain="a" if i % 2 else "b") for i in range(count)]
        scores = Scores(references, [PredictedLabels(domain="a")] * count, resamples=1000)
        low, high = interval(scores.values["domain_accuracy"][1:])
        assert low < 50 < high
        return high - low

    assert width(400) < width(50) < 40


def test_the_mean_is_that_of_german_french_italian_spanish() -> None:
    values = {"de-DE": {"m": 1.0}, "fr-FR": {"m": 2.0}, "it-IT": {"m": 3.0}, "es-ES": {"m": 6.0}, "en-US": {"m": 99.0}}

    assert with_mean(values)["mean"] == {"m": 3.0}
    assert with_mean({"en-US": {"m": 99.0}})["mean"] == {"m": 99.0}


def test_scores_by_locale() -> None:
    references = [utterance("ja", locale="de-DE"), utterance("oui", locale="fr-FR")]

    scores = score_by_locale(references, [answer("ja"), answer("oui", intent="other")])

    assert [scores[locale]["intent_accuracy"] for locale in ("de-DE", "fr-FR", "mean")] == [100, 0, 50]


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="1 references and 0 answers"):
        Scores([utterance("ja")], [])
