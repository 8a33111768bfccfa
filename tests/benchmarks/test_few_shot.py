from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import few_shot, few_shot_data
from training.data.utterances import DatasetError, Slot

THINGS = ("alarm", "weather", "music")


@pytest.fixture
def clinc(tmp_path: Path) -> Path:
    folder = tmp_path / "clinc"
    folder.mkdir()
    rows = {part: [[f"{part} {i} about {x}", x] for x in THINGS for i in range(12)] for part in ("train", "test")}
    (folder / "data_full.json").write_text(json.dumps({**rows, "oos_test": [["what is love", "oos"]]}))
    return folder


def test_rows_are_kept_and_become_a_table(clinc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "rows.json", tmp_path / "few-shot.md"
    page.write_text("# Little data\n\nHow.\n\n<!-- measured: begin --><!-- measured: end -->\n\nLimits.\n")
    flags = ["--set", f"clinc150={clinc}", "--methods", "tfidf", "--per-intent", "4,0", "--seeds", "1,2"]
    flags += ["--work", str(tmp_path / "work"), "--out", str(out), "--report", str(page)]

    assert few_shot.main(flags) == 0
    before = out.read_bytes()
    assert few_shot.main(flags) == 0

    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == 4
    assert out.read_bytes() == before  # finished rows are not computed again
    assert [(row["per_intent"], row["seed"], row["rows"]) for row in json.loads(before)] == [
        (4, 1, 12),
        (4, 2, 12),
        (0, 1, 36),
        (0, 2, 36),
    ]
    text = page.read_text()
    assert text.startswith("# Little data\n\nHow.")
    assert text.endswith("\n\nLimits.\n")
    assert "| TF-IDF + logistic regression | 100.0 ± 0.0 | 100.0 ± 0.0 |" in text


def test_samples_are_drawn_by_intent(clinc: Path) -> None:
    pool, scored = few_shot_data.clinc150(clinc)

    sample = few_shot_data.draw(pool, 5, seed=1)

    assert {x: sum(u.intent == x for u in sample) for x in THINGS} == dict.fromkeys(THINGS, 5)
    assert sample == few_shot_data.draw(pool, 5, seed=1) != few_shot_data.draw(pool, 5, seed=2)
    assert all(u.text.startswith("test") and not u.slots_annotated for u in scored)  # without the out-of-scope ones


def test_facebook_slots_count_characters(tmp_path: Path) -> None:
    rows = [
        "alarm/set_alarm\t19:24:datetime,7:10:alarm/article\tColocar una alarma ahora\tes_XX\t{}",
        "alarm/set_alarm\t-2:3:datetime\tfuera de rango\tes_XX\t{}",
    ]
    for name in ("train", "test"):
        (tmp_path / f"{name}-es.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    train, _ = few_shot_data.fb_multilingual(tmp_path)

    assert [(u.domain, u.intent) for u in train] == [("alarm", "alarm/set_alarm")]  # the other row can't be used
    assert train[0].slots == (Slot("alarm/article", 7, 10), Slot("datetime", 19, 24))


def test_a_row_with_too_few_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-es.tsv").write_text("alarm/set_alarm\t\n")

    with pytest.raises(DatasetError, match=r"train-es\.tsv:1: 2 columns; expected: intent, start:end:slot marks, text"):
        few_shot_data.fb_multilingual(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "atis=x", "--work", "w"], "allowed: NAME=FOLDER with one of snips, clinc150, fb_multilingual"),
        (["--methods", "bert"], "bert; allowed: tfidf, probe, xs, s"),
        (["--set", "snips=x", "--work", "w"], "--methods probe: needs --encoder"),
        (["--set", "snips=x"], "--set: needs --work"),
    ],
)
def test_what_is_unknown_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        few_shot.main([*flags, "--out", "rows.json"])

    assert message in capsys.readouterr().err
