"""What is written is read again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import convert
from training.data import datasets
from training.data.formats.base import ReadOptions
from training.data.formats.writers import WRITERS, CannotWriteError
from training.data.utterances import Slot, Utterance

AS_WRITTEN = ReadOptions(dev_share=0)
LABELS = st.sampled_from(
    ["an", "aus", "yes", "1.0", "null", "~", "# x", "a: b", "to.city", "alarm time", "{x}", "(x)", "'"]
)


def words(forbidden: str) -> st.SearchStrategy[str]:
    return st.text(
        st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters=forbidden), min_size=1, max_size=8
    )


@st.composite
def utterances(draw: st.DrawFn, forbidden: str = "") -> list[Utterance]:
    """Utterances with distinct ids, values without outer spaces, and all that JSONL keeps."""
    found = []
    for number in range(draw(st.integers(1, 4))):
        text, slots = "", []
        for word in draw(st.lists(words(forbidden), min_size=1, max_size=4)):
            word = word.strip() or "x"
            text += " " if text and draw(st.booleans()) else ""
            if draw(st.booleans()):
                slots.append(Slot(draw(LABELS), len(text), len(text) + len(word)))
            text += word
        partition, locale = draw(st.sampled_from(["train", "test"])), draw(st.sampled_from(["de-DE", "fr-FR"]))
        domain = draw(st.none() | LABELS)
        found.append(Utterance(str(number), text, locale, partition, domain, draw(LABELS), tuple(slots)))  # type: ignore[arg-type]
    return found


def round_trip(name: str, written: list[Utterance]) -> list[Utterance]:
    with tempfile.TemporaryDirectory() as folder:
        for file, content in WRITERS[name](written).items():
            path = Path(folder) / (file or {"jsonl": "data.jsonl", "csv": "data.csv"}.get(name, "data.json"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return list(datasets.load(folder, options=AS_WRITTEN).utterances)


def content_of(found: list[Utterance]) -> list[tuple[object, ...]]:
    """Without ids and domains."""
    return sorted((u.partition, u.locale, str(u.intent), u.text, str(u.slots)) for u in found)


@settings(max_examples=20)
@given(utterances())
def test_jsonl_keeps_everything(written: list[Utterance]) -> None:
    assert round_trip("jsonl", written) == written


@settings(max_examples=20)
@given(utterances(forbidden="\ufeff"))
def test_csv_keeps_everything(written: list[Utterance]) -> None:
    assert round_trip("csv", written) == written


@settings(max_examples=20)
@given(utterances(forbidden="[]\ufeff"))
def test_rasa_keeps_texts_intents_and_slots(written: list[Utterance]) -> None:
    assert content_of(round_trip("rasa", written)) == content_of(written)


@settings(max_examples=20)
@given(utterances())
def test_clu_keeps_texts_intents_and_slots(written: list[Utterance]) -> None:
    assert content_of(round_trip("clu", written)) == content_of(written)


@pytest.mark.parametrize(
    ("name", "utterance", "message"),
    [
        (
            "rasa",
            Utterance("7", "a [b]", "de-DE", intent="x"),
            "7: text: has outer spaces, control characters or square",
        ),
        (
            "rasa",
            Utterance("7", "a\nb", "de-DE", intent="x"),
            "7: text: has outer spaces, control characters or square",
        ),
        ("rasa", Utterance("7", "a", "de-DE"), "7: intent: is missing; Rasa needs one"),
        ("clu", Utterance("7", "a", "de-DE"), "7: intent: is missing; CLU needs one"),
    ],
)
def test_what_a_format_cannot_express_is_refused(name: str, utterance: Utterance, message: str) -> None:
    with pytest.raises(CannotWriteError, match=message):
        WRITERS[name]([utterance])


def table(folder: Path) -> str:
    rows = "".join(f"licht {i} an,{'on' if i % 2 else 'off'},{6}:{6 + len(str(i)) - 1}:n\n" for i in range(20))
    (folder / "export.csv").write_text("utt,label,slots\n" + rows)
    return str(folder / "export.csv")


def test_the_command_writes_what_every_command_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data.jsonl"
    flags = ["--columns", "text=utt,intent=label", "--offsets", "inclusive", "--locales", "de-DE", "--dev-share", "0.2"]

    assert convert.main(["--data", table(tmp_path), "--out", str(out), *flags]) == 0

    said = capsys.readouterr()
    summary = json.loads(said.out.splitlines()[-1])
    assert summary["partitions"] == {"train": 16, "dev": 4}
    assert "'utt' as text, 'label' as intent" in said.err
    dataset = datasets.load(str(out))
    assert len(dataset.part("dev")) == 4
    assert dataset.utterances[3].value(dataset.utterances[3].slots[0]) == "3"


def test_the_command_converts_to_rasa_and_back(tmp_path: Path, sample: Path) -> None:
    assert convert.main(["--data", str(sample), "--to", "rasa", "--out", str(tmp_path / "rasa")]) == 0

    read = datasets.load(str(tmp_path / "rasa")).utterances
    assert content_of(list(read)) == content_of(list(datasets.load(str(sample)).utterances))


def test_rasa_is_a_folder_even_of_one_file(tmp_path: Path) -> None:
    flags = ["--data", table(tmp_path), "--locales", "de-DE", "--dev-share", "0", "--columns", "slots="]

    assert convert.main([*flags, "--to", "rasa", "--out", str(tmp_path / "rasa")]) == 0

    assert (tmp_path / "rasa" / "train" / "de-DE.yml").is_file()


def test_the_command_overwrites_only_if_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--data", table(tmp_path), "--out", str(tmp_path / "export.csv"), "--locales", "de-DE"]

    assert convert.main(flags) == 2
    assert "exists already; choose another --out, or --force" in capsys.readouterr().err


@pytest.mark.parametrize("flags", [["--columns", "colour=x"], ["--dev-share", "1"], ["--offsets", "words"]])
def test_flags_of_another_form_are_refused(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(SystemExit):
        convert.main(["--data", "x", "--out", str(tmp_path / "y"), *flags])
