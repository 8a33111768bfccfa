from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.student.tokenization import TextEncoder
from training import tokenizer as command
from training.data import datasets
from training.text import tokenizer

SCRIPT = """
import hashlib, sys
from training.data import datasets
from training.text.tokenizer import train_tokenizer
texts = [u.text for u in datasets.load(sys.argv[1]).part("train")]
print(hashlib.sha256(train_tokenizer(texts, 800).to_str().encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def encoder(sample: Path) -> TextEncoder:
    return TextEncoder(tokenizer.train_tokenizer([u.text for u in datasets.load(str(sample)).part("train")], 1000), 64)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Weck mich am Freitag um 9 Uhr!", "Weck|mich|am|Freitag|um|9|Uhr|!"),
        ("joue l'album, s'il te plaît", "joue|l'album|,|s'il|te|plaît"),
        ("dell' amore alle 9:30", "dell'|amore|alle|9:30"),
        ("um neun p. m. (b. b. c. news)", "um|neun|p.|m.|(|b.|b.|c.|news|)"),
        ("¿qué   hora\tes?", "¿|qué|hora|es|?"),
        ("l’été «Jazz»", "l’été|«|Jazz|»"),
        ("星期五 9点", "星|期|五|9|点"),
        ("नमस्ते, 50%", "नमस्ते|,|50|%"),
        ("„Jazz“ ‹Jazz› 'Jazz'", "„|Jazz|“|‹|Jazz|›|'|Jazz'"),
        ("$5 5€ 20° (9h)", "$|5|5|€|20|°|(|9h|)"),
        ("weck\u00admich um\u200bgehend❤\ufe0f…heute", "weck\u00admich|um\u200bgehend|❤|…|heute"),
    ],
)
def test_words_end_where_punctuation_begins(encoder: TextEncoder, text: str, words: str) -> None:
    encoded = encoder.encode(text)

    assert "|".join(text[start:end] for start, end in encoded.words) == words


def test_case_and_spaces_make_no_difference(encoder: TextEncoder) -> None:
    assert encoder.encode("  WECK  mich\u00a0auf ").ids == encoder.encode("weck mich auf").ids


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("\ufeffweck\u200b mi\u00adch\u2060 a\u034fuf\ufe0f", "weck mich auf"),
        ("\u200eweck\u202f\u2009mich\u3000auf", "weck mich auf"),
        ("l’heure l‘heure lʼheure l´heure l`heure", "l'heure l'heure l'heure l'heure l'heure"),
        ("“a” „a“ «a» ‹a› ”a” 「a」 ❝a❞", '"a" "a" "a" "a" "a" "a" "a"'),
        ("weck mich… um neun.... los!!! ja??", "weck mich. um neun. los! ja?"),
        ("porte‑moi – 5−6", "porte-moi - 5-6"),
    ],
)
def test_ways_of_typing_make_no_difference(encoder: TextEncoder, typed: str, plain: str) -> None:
    assert encoder.encode(typed).ids == encoder.encode(plain).ids


@pytest.mark.parametrize("mark", ["¿", "$", '"', "(", "#", "…"])
def test_a_mark_in_front_of_a_word_leaves_its_tokens(encoder: TextEncoder, mark: str) -> None:
    marked, alone = encoder.encode(f"{mark}freitag"), encoder.encode("freitag")

    assert marked.ids[marked.first_tokens[1] :] == alone.ids[1:]
    assert marked.words == [(0, 1), (1, 8)]


def test_no_format_character_makes_a_difference(encoder: TextEncoder) -> None:
    plain = encoder.encode("frei tag").ids

    for character in filter(lambda c: unicodedata.category(c) == "Cf", map(chr, range(sys.maxunicode + 1))):
        assert encoder.encode(f"{character}fr{character}ei{character} tag{character}").ids == plain, character


TYPED = st.text(
    st.sampled_from("aB9 '’´“”„«»\"…..!?¿-–$€°%(\u00a0\u200b\u00ad\ufeff\u200d\ufe0f\u0301😀½l")
    | st.characters(codec="utf-8")
)


@given(st.text(max_size=60) | TYPED)
@settings(max_examples=600)
def test_words_are_ordered_slices_of_the_raw_text(encoder: TextEncoder, text: str) -> None:
    encoded = encoder.encode(text)

    assert len(encoded.words) == len(encoded.first_tokens)
    for start, end in encoded.words:
        assert 0 <= start < end <= len(text)
        assert text[start:end] == text[start:end].strip()
    assert all(before[0] <= after[0] and before[1] <= after[1] for before, after in pairwise(encoded.words))
    assert encoded.first_tokens == sorted(set(encoded.first_tokens))
    assert all(0 < position < len(encoded.ids) <= 64 for position in encoded.first_tokens)


def test_long_texts_are_cut_visibly(encoder: TextEncoder) -> None:
    encoded = encoder.encode("wecker " * 200)

    assert encoded.truncated
    assert len(encoded.ids) == 64
    assert not encoder.encode("wecker").truncated


def test_training_is_deterministic_across_processes(sample: Path) -> None:
    runs = [
        subprocess.run([sys.executable, "-c", SCRIPT, str(sample)], capture_output=True, check=True) for _ in range(3)
    ]

    assert len({run.stdout for run in runs}) == 1


def test_the_command_writes_a_tokenizer(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "tokenizer.json"

    arguments = ["--data", str(sample), "--locales", "de-DE,it-IT", "--vocabulary", "500", "--out", str(out)]
    assert command.main(arguments) == 0

    summary = json.loads(capsys.readouterr().out)
    assert summary["pieces"] == 500
    assert 1 < summary["pieces_per_word"] < 4
    assert TextEncoder.from_file(out, 64).encode("weck mich").ids[0] == 2


def test_the_command_reads_plain_text_too(tmp_path: Path, sentences: list[str]) -> None:
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    arguments = ["--corpus", str(tmp_path / "text.txt"), "--tokenizer-lines", "200", "--vocabulary", "300", "--out"]
    assert command.main([*arguments, str(tmp_path / "tokenizer.json")]) == 0

    spread = tokenizer.spread_lines([str(tmp_path / "text.txt")], 200)
    assert 200 <= len(spread) < 400
    assert spread[0] == sentences[0]
    assert spread[-1] in sentences[-10:]
    expected = tokenizer.train_tokenizer(spread, 300).to_str()
    assert tokenizer.load_tokenizer(tmp_path / "tokenizer.json").to_str() == expected


def test_special_tokens_are_found_under_either_name(
    hub_xlm_roberta: Path, hub_bert: Path, sentences: list[str]
) -> None:
    roberta, bert = (
        tokenizer.special_ids(tokenizer.load_tokenizer(folder / "tokenizer.json"))
        for folder in (hub_xlm_roberta, hub_bert)
    )

    assert roberta == tokenizer.SpecialIds(pad=1, unknown=3, first=0, mask=4, protected=(0, 1, 2, 3, 4))
    assert bert == tokenizer.SpecialIds(pad=0, unknown=1, first=2, mask=4, protected=(0, 1, 2, 3, 4))
    ours = tokenizer.special_ids(tokenizer.train_tokenizer(sentences[:50], 200))
    assert ours == tokenizer.SpecialIds(pad=0, unknown=1, first=2, mask=3, protected=(0, 1, 2, 3))


def test_a_tokenizer_without_special_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lacks special tokens; allowed: \[PAD\], .* or <pad>"):
        tokenizer.special_ids(tokenizer.new_tokenizer())
