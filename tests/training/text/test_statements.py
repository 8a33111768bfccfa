from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from training import corpus
from training.data.datasets import row_of
from training.data.utterances import Utterance
from training.text.statements import keywords_of, statements_in

REQUESTS = [f"stell den wecker auf {number} uhr" for number in range(10)]
SONGS = [f"spiel das lied nummer {number}" for number in range(50)]


def utterances() -> list[Utterance]:
    texts = [(text, "alarm") for text in REQUESTS] + [(text, "music") for text in SONGS]
    rows = [Utterance(str(i), text, "de-DE", "train", domain, "i") for i, (text, domain) in enumerate(texts)]
    return [*rows, Utterance("x", "mein wecker ist kaputt gegangen", "de-DE", "dev", "alarm", "i")]


def test_keywords_are_words_of_one_domain() -> None:
    assert keywords_of(utterances()[:-1]) == {"stell", "wecker"}  # half of all texts are no sign: not "lied"
    assert keywords_of([]) == set()


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("Gestern habe ich den Wecker repariert.", True),
        ("Gestern habe ich das Radio repariert.", False),
        ("Stell den Wecker bitte ab", False),
        ("Stell dir einen großen Wecker vor", False),
        ("Hast du den Wecker gehört?", False),
        ("Der Wecker klingelt", False),
    ],
)
def test_statements_hold_a_keyword_and_do_not_begin_like_a_request(line: str, taken: bool) -> None:
    assert list(statements_in([line], {"wecker"}, REQUESTS)) == ([line] if taken else [])


def test_the_command_writes_them_by_locale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, generic, out = tmp_path / "data.jsonl", tmp_path / "generic", tmp_path / "out"
    data.write_text("\n".join(json.dumps(row_of(u)) for u in utterances()))
    (generic / "de").mkdir(parents=True)
    held_out = "Mein Wecker ist kaputt gegangen."
    plain = ["Gestern habe ich den Wecker repariert.", held_out, "Das Radio war gestern wieder viel zu laut."]
    (generic / "de" / "tatoeba.txt").write_text("\n".join(plain))
    (generic / "de" / "eltec.txt").write_text("Der alte Wecker stand auf dem Schrank.\n")
    command = ["statements", "--data", str(data), "--locales", "de-DE", "--generic", str(generic), "--out", str(out)]

    assert corpus.main(command) == 0

    assert gzip.decompress((out / "de-DE.txt.gz").read_bytes()).decode().splitlines() == plain[:1]
    assert json.loads(capsys.readouterr().out)["removed"] == {"dev_or_test": 1}
    assert corpus.main(command) == 2
    assert "exists already" in capsys.readouterr().err
    (generic / "de").rename(generic / "fr")
    assert corpus.main([*command, "--force"]) == 2
    assert "holds no text for de-DE" in capsys.readouterr().err
