from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training import corpus, finetune
from training.data.datasets import row_of
from training.data.utterances import Slot, Utterance
from training.text.pool import Embeddings, Pool, build, in_turns

ALARM = ("wecke mich um neun uhr", "wecke mich am freitag um acht uhr", "stelle den wecker auf zehn uhr")
MUSIC = ("spiele etwas von mozart", "spiele ein lied von bach")


class KeywordTeacher:
    """Its intent is decided by a word; so is its embedding."""

    def intents(self, texts: Sequence[str]) -> list[str]:
        return ["alarm_set" if "weck" in text.lower() and "bach" not in text.lower() else "play" for text in texts]

    def embed(self, texts: Sequence[str]) -> Embeddings:
        words = ("weck", "spiel", "")
        return np.array([[word in text.lower() for word in words] for text in texts], dtype=np.float32)


def utterance(number: int, text: str, intent: str, slot: str = "", **fields: str) -> Utterance:
    slots = (Slot("value", start := text.index(slot), start + len(slot)),) if slot else ()
    return Utterance(
        str(number), text, fields.get("locale", "de-DE"), fields.get("partition", "train"), "x", intent, slots
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        utterance(1, ALARM[0], "alarm_set", "neun uhr"),
        utterance(2, ALARM[1], "alarm_set", "freitag um acht uhr"),
        utterance(3, ALARM[2], "alarm_set", "zehn uhr"),
        utterance(4, MUSIC[0], "play", "mozart"),
        utterance(5, MUSIC[1], "play", "bach"),
        utterance(6, "Wie spät ist es?", "play"),
        utterance(7, "zet de wekker", "alarm_set", locale="nl-NL"),
        utterance(8, "wie spät ist es", "play", partition="dev"),
        utterance(9, "mach das Licht an", "play", partition="test"),
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps(row_of(row)) for row in rows))
    return file


@pytest.fixture
def generic(tmp_path: Path) -> Path:
    folder = tmp_path / "generic" / "de"
    folder.mkdir(parents=True)
    (folder / "voice_prompts.txt").write_text("Mach das Licht an!\nfahre den rechner herunter\n")
    near = [f"mein wecker Nummer {i} klingelt" for i in range(5)]
    far = [f"der Graf von {i} ritt durch den Wald" for i in range(20)]
    (folder / "tatoeba.txt").write_text("\n".join([*far[:10], *near, *far[10:], "wecker", "Wie spät, ist es?"]))
    (folder / "eltec.txt").write_text("wecke die toten\n")
    return folder.parent


def lines_of(pool: Path, locale: str) -> list[str]:
    return gzip.decompress((pool / f"{locale}.txt.gz").read_bytes()).decode().splitlines()


def spec_of(data: Path, generic: Path | str = "", **fields: object) -> Pool:
    return Pool(str(data), "de-DE", "nl-NL", str(generic), **fields)  # type: ignore[arg-type]


def test_a_pool_holds_training_texts_variants_prompts_and_near_sentences(
    data: Path, generic: Path, tmp_path: Path
) -> None:
    manifest = build(spec_of(data, generic, nearest=10, views=3), KeywordTeacher(), tmp_path / "pool")

    german = lines_of(tmp_path / "pool", "de-DE")
    assert {*ALARM, *MUSIC, "fahre den rechner herunter"} <= set(german)
    assert len(german) == len(set(german))
    assert "zet de wekker" in lines_of(tmp_path / "pool", "nl-NL")
    assert {f"mein wecker Nummer {i} klingelt" for i in range(5)} <= set(german)
    counts = manifest["locales"]["de-DE"]
    assert counts["train"] == 5
    assert counts["voice_prompts"] == 1
    assert counts["nearest"] == 10
    assert counts["typed"] > 5
    assert counts["reworded"] > 0
    assert sum(counts.values()) == len(german) == manifest["files"]["de-DE"]["lines"]
    assert json.loads((tmp_path / "pool" / "manifest.json").read_text()) == manifest
    assert not any("toten" in line for line in german)


def test_dev_and_test_texts_are_not_in_it(data: Path, generic: Path, tmp_path: Path) -> None:
    manifest = build(spec_of(data, generic, nearest=100), KeywordTeacher(), tmp_path / "pool")

    text = "\n".join(lines_of(tmp_path / "pool", "de-DE")).lower()
    assert "spät" not in text
    assert "licht" not in text
    assert manifest["removed"]["dev_or_test"] >= 3


def test_substituted_values_are_kept_where_the_teacher_agrees(data: Path, tmp_path: Path) -> None:
    manifest = build(spec_of(data, views=0, substitutions=20, rewordings=0), KeywordTeacher(), tmp_path / "pool")

    new = [line.lower() for line in lines_of(tmp_path / "pool", "de-DE") if line not in (*ALARM, *MUSIC)]
    assert manifest["locales"]["de-DE"]["substituted"] == len(new)
    assert any("mozart" in line and "weck" in line for line in new)
    assert not any("bach" in line and "weck" in line for line in new)
    assert manifest["removed"]["teacher_disagrees"] > 0


def test_intents_take_turns_with_their_nearest_text() -> None:
    intents, scores = np.array([0, 0, 0, 1, 2]), np.array([0.9, 0.8, 0.7, 0.3, 0.5], dtype=np.float32)

    assert in_turns(intents, scores).tolist() == [0, 4, 3, 1, 2]


def test_the_same_seed_gives_the_same_files(data: Path, generic: Path, tmp_path: Path) -> None:
    first, second = (
        build(spec_of(data, generic), KeywordTeacher(), tmp_path / name)["files"] for name in ("one", "two")
    )
    other = build(spec_of(data, generic, seed=2), KeywordTeacher(), tmp_path / "three")["files"]

    assert first == second != other


def test_students_learn_from_a_pool_of_an_exported_teacher(
    student_folder: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "generic" / "de").mkdir(parents=True)
    (tmp_path / "generic" / "de" / "tatoeba.txt").write_text(
        "\n".join(f"ich habe {i} uhren gesehen" for i in range(30))
    )
    shared = ["--data", str(sample), "--locales", "de-DE", "--teacher", str(student_folder), "--threads", "1"]
    shared += ["--teacher-cache", str(tmp_path / "cache")]
    more = ["--generic", str(tmp_path / "generic"), "--nearest", "7", "--out", str(tmp_path / "pool")]

    assert corpus.main(["pool", *shared, *more]) == 0

    summary = json.loads(capsys.readouterr().out)
    assert summary["locales"]["de-DE"]["nearest"] == 7
    manifest = json.loads((tmp_path / "pool" / "manifest.json").read_text())
    assert manifest["teacher"]["name"] == student_folder.name
    assert manifest["arguments"]["data"] == sample.name
    student = ["--size", "xs", "--epochs", "1", "--unlabelled", str(tmp_path / "pool"), "--out", str(tmp_path / "out")]
    assert finetune.main([*shared, *student]) == 0


def test_wrong_input_is_refused(
    student_folder: Path, sample: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error_of(*more: str) -> str:
        shared = ["pool", "--data", str(sample), "--locales", "de-DE", "--teacher", str(student_folder)]
        assert corpus.main([*shared, "--out", str(tmp_path / "pool"), *more]) == 2
        return capsys.readouterr().err

    assert "holds no text in de" in error_of("--generic", str(tmp_path), "--nearest", "0")
    assert "no such checkpoint folder" in error_of("--teacher", "/nowhere")
    (tmp_path / "pool").mkdir()
    assert "exists already" in error_of("--substitutions", "0")
