"""The word cache: a text is tokenised exactly as without it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.load.texts import load_texts
from service.student import tokenization
from service.student.shipped import SHIPPED_STUDENTS
from service.student.student import Student
from service.student.tokenization import PLAIN, WORD_BY_WORD, TextEncoder, pipeline_of
from training.text.tokenizer import new_tokenizer, normaliser

LETTERS = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Lt", "Lm"]), min_size=1, max_size=8)
WORDS = (
    st.sampled_from(
        ["Weck", "mich", "l'heure", "réveille-moi", "dell'", "İstanbul", "ﬁn", "ẞ", "ΟΔΟΣ", "你好", "한국어"]
    )
    | st.sampled_from(
        ["น้ำ", "e\u0301", "naïve", "K", "ſ", "ª", "Ǆ", "㍿", "ー", "a-b-c", "o'o", "'", "-", "7", "9:30", "p.m."]
    )
    | st.sampled_from(
        [
            "l’été",
            "’",
            "a’",
            "“Jazz”",
            "“",
            "«",
            "¿qué",
            "$5",
            "(a)",
            "so\u00adfa",
            "\ufeff",
            "a\u200b",
            "ᅠ",
            "❤\ufe0f",
            "x…",
            "!!",
        ]
    )
    | LETTERS
)
TEXTS = st.lists(WORDS, max_size=10).flatmap(
    lambda words: st.sampled_from([" ", " ", " ", "  ", "\u00a0", "\t"]).map(lambda space: space.join(words))
)
ANY = settings(max_examples=600)


@pytest.fixture(scope="module", params=["shipped", "new"])
def encoder(request: pytest.FixtureRequest) -> TextEncoder:
    """The encoder of a shipped student, and one with its tokens and the present normaliser."""
    encoder = Student.load(SHIPPED_STUDENTS / "s").encoder
    if request.param == "new":
        encoder.tokenizer.normalizer = normaliser()
        encoder = TextEncoder(encoder.tokenizer, encoder.max_length)
    return encoder


def test_the_projects_own_tokenizers_split_into_independent_words(encoder: TextEncoder) -> None:
    assert {pipeline_of(new_tokenizer()), pipeline_of(encoder.tokenizer)} <= WORD_BY_WORD
    assert encoder.word_cache is not None


@ANY
@given(text=TEXTS)
def test_any_text_is_tokenised_as_without_the_cache(encoder: TextEncoder, text: str) -> None:
    assert encoder.encode(text) == encoder.encode_whole(text)
    assert encoder.encode(text) == encoder.encode_whole(text)  # from the cache


def test_requests_are_tokenised_as_without_the_cache(encoder: TextEncoder) -> None:
    texts = [text.text for text in load_texts()]
    texts += [" ".join(texts[:5]), texts[0].upper(), texts[0].title()]

    assert [encoder.encode(text) for text in texts] == [encoder.encode_whole(text) for text in texts]
    assert sum(PLAIN.fullmatch(text) is not None for text in texts) > len(texts) / 2


def test_other_tokenizers_have_no_cache(student: Student) -> None:
    encoder = student.encoder

    assert pipeline_of(encoder.tokenizer) not in WORD_BY_WORD
    assert encoder.encode("wetter in berlin") == encoder.encode_whole("wetter in berlin")
    assert encoder.word_cache is None


def test_the_cache_is_bounded_and_holds_words_of_letters_only(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenization, "MAX_CACHED_WORDS", 5)
    kept = encoder.word_cache
    assert kept is not None
    kept.clear()

    for number in range(20):
        encoder.encode(f"meine nummer ist {number}4711")
        encoder.encode("das wort " + "abcdefghijklmnopqrst"[number] * 3)
    encoder.encode("x" * 1000)

    assert 0 < len(kept) <= 5
    assert max(map(len, kept)) <= tokenization.MAX_WORD_LENGTH
    assert all(word.isalpha() for word in kept)
