"""CSV and TSV as people save them."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

import pytest

from training.data import datasets
from training.data.formats.base import ReadOptions
from training.data.formats.columns import parse_columns
from training.data.utterances import Slot, Utterance

HEADER = "id,locale,partition,domain,intent,annotation"
ROWS = (
    "0,de-DE,train,home,lights_on,mach das licht im [room : bad] an",
    "1,de-DE,train,info,weather,wie wird das wetter in [city : köln]",
    "2,de-DE,dev,info,weather,wie wird das wetter in [city : bern]",
)
FIRST = Utterance("0", "mach das licht im bad an", "de-DE", "train", "home", "lights_on", (Slot("room", 18, 21),))


def write(folder: Path, text: str, encoding: str = "utf-8", name: str = "data.csv") -> str:
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def table(*rows: str, header: str = HEADER) -> str:
    return "".join(f"{row}\n" for row in (header, *(rows or ROWS)))


def read(source: str, **options: object) -> datasets.Dataset:
    return datasets.load(source, options=ReadOptions(**options))  # type: ignore[arg-type]


def said(dataset: datasets.Dataset) -> str:
    return "\n".join(f"{note.level} {note}" for note in dataset.notes)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends(tmp_path: Path, separator: str, end: str) -> None:
    dataset = read(write(tmp_path, table().replace(",", separator).replace("\n", end)))

    assert dataset.utterances[0] == FIRST
    assert [place.rsplit(":", 1)[1] for place in dataset.places] == ["2", "3", "4"]
    assert ("cells are separated by" in said(dataset)) == (separator != ",")


def test_excel_names_the_separator(tmp_path: Path) -> None:
    assert read(write(tmp_path, "sep=;\n" + table().replace(",", ";"))).utterances[0] == FIRST


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8-sig", "info {}: read as UTF-8 with a byte-order mark"),
        ("utf-16", "info {}: read as UTF-16"),
        ("utf-32", "info {}: read as UTF-32"),
        ("utf-16-le", "warning {}: is not UTF-8; read as UTF-16: check the letters with accents"),
        ("cp1252", "warning {}: is not UTF-8; read as Windows-1252: check the letters with accents"),
    ],
)
def test_encodings_are_detected_and_said(tmp_path: Path, encoding: str, shown: str) -> None:
    source = write(tmp_path, table(), encoding)

    dataset = read(source)

    assert [u.text for u in dataset.utterances][:2] == ["mach das licht im bad an", "wie wird das wetter in köln"]
    assert shown.format(source) in said(dataset)


def test_gzip(tmp_path: Path) -> None:
    (tmp_path / "data.csv.gz").write_bytes(gzip.compress(table().encode()))

    assert read(str(tmp_path / "data.csv.gz")).utterances[0] == FIRST


def test_one_line_in_another_encoding_is_named(tmp_path: Path) -> None:
    broken = table().encode() + table("3,de-DE,train,home,x,in lörrach").encode("cp1252").split(b"\n", 1)[1]
    (tmp_path / "data.csv").write_bytes(broken.replace(b"bern", "zürich für übung".encode()))

    with pytest.raises(datasets.DatasetError, match=r"data\.csv:5: text: holds the byte 0xF6 \('ö' in Windows-1252\)"):
        read(str(tmp_path / "data.csv"))


def test_bytes_of_no_encoding_are_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(table().encode("cp1252") + b"\x81\n")

    with pytest.raises(datasets.DatasetError, match=r"data\.csv:5: row: byte 0x81 is neither UTF-8 nor Windows-1252"):
        read(str(tmp_path / "data.csv"))


def test_a_damaged_utf_16_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(codecs.BOM_UTF16_LE + "text\nja\n".encode("utf-16-le") + b"x")

    with pytest.raises(datasets.DatasetError, match=r"data\.csv:3: row: the file begins as UTF-16, but"):
        read(str(tmp_path / "data.csv"))


@pytest.mark.parametrize("header", ["id, locale, partition, domain, intent, annotation", HEADER.title()])
def test_header_names_are_trimmed_and_their_case_does_not_matter(tmp_path: Path, header: str) -> None:
    assert read(write(tmp_path, table(header=header))).utterances[0] == FIRST


def test_another_name_is_said(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, "Sentence,Label,Language\nlicht an,lights_on,de-DE\n"))

    assert (dataset.utterances[0].text, dataset.utterances[0].intent) == ("licht an", "lights_on")
    assert "'Sentence' as text, 'Label' as intent, 'Language' as locale" in said(dataset)


def test_columns_that_are_not_used_are_said(tmp_path: Path) -> None:
    rows = "text,locale,intent,label,intnet,note\nlicht an,de-DE,lights_on,x,y,z\n"

    told = said(read(write(tmp_path, rows)))

    assert "warning" in told
    assert (
        "column 'label' is not used: intent is read from 'intent' (distilled-nlu convert --columns intent=label)"
        in told
    )
    assert "column 'intnet' is not used: intent is read from 'intent'" in told
    assert "info" in told
    assert "column 'note' is not used" in told


def test_a_column_that_looks_like_a_known_one_is_said(tmp_path: Path) -> None:
    told = said(read(write(tmp_path, "text,locale,intnet\nlicht an,de-DE,x\n")))

    assert "column 'intnet' is not used; if it is intent: distilled-nlu convert --columns intent=intnet" in told
    assert "no row has an intent" in told


def test_columns_can_be_chosen(tmp_path: Path) -> None:
    source = write(tmp_path, "text,ask,what,locale\n17,licht an,lights_on,de-DE\n")

    (utterance,) = read(source, columns=parse_columns("text=ask, intent=what")).utterances

    assert (utterance.text, utterance.intent) == ("licht an", "lights_on")


def test_columns_by_number_where_there_is_no_header(tmp_path: Path) -> None:
    source = write(tmp_path, 'alarm/set\t8:15:datetime\tweck um 7 uhr "jetzt\tde_XX\n', name="train.tsv")
    columns = parse_columns("intent=1,slots=2,text=3,locale=4")

    (utterance,) = read(source, columns=columns).utterances

    assert utterance.intent == "alarm/set"
    assert utterance.slots == (Slot("datetime", 8, 15),)
    assert utterance.locale == "de"


@pytest.mark.parametrize("text", ["text", "colour=x", "=x"])
def test_columns_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: FIELD=COLUMN"):
        parse_columns(text)


def test_a_chosen_column_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match="intent=label: there is no such column; found: 'id', 'locale'"):
        read(write(tmp_path, table()), columns={"intent": "label"})


def test_a_column_can_be_left_out(tmp_path: Path) -> None:
    source = write(tmp_path, "text,locale,entities\nlicht an,de-DE,lamp; switch\n")

    assert read(source, columns=parse_columns("slots=")).utterances[0].slots == ()


def test_a_table_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        datasets.DatasetError, match=r"data\.csv:1: header: no column is known to hold the text; found: 'a'"
    ):
        read(write(tmp_path, "a,b\n1,2\n"))


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match="column 'text' stands twice"):
        read(write(tmp_path, "text,text\n1,2\n"))


def test_a_cell_with_a_line_break_is_one_text_and_later_lines_keep_their_numbers(tmp_path: Path) -> None:
    rows = ('0,de-DE,train,home,lights_on,"mach das licht\nim [room : flur] an"', ROWS[1], "x,de-DE,eval,a,b,c")

    with pytest.raises(datasets.DatasetError, match=r"data\.csv:5: partition: is 'eval'"):
        read(write(tmp_path, table(*rows)))
    assert read(write(tmp_path, table(*rows[:2]))).utterances[0].text == "mach das licht\nim flur an"


@pytest.mark.parametrize("more", ["", '7,de-DE,train,info,weather,"ja, bitte"\n', "x" * 200_000 + "\n"])
def test_a_quotation_mark_that_is_not_closed_swallows_no_rows(tmp_path: Path, more: str) -> None:
    opened = '3,de-DE,train,home,lights_on,"mach das licht an'
    text = table(opened, *ROWS) + more

    with pytest.raises(datasets.DatasetError, match=r"data\.csv:2: row: .*opens cell 6 is not closed"):
        read(write(tmp_path, text))


def test_skipping_loses_only_the_line_with_the_open_quotation_mark(tmp_path: Path) -> None:
    source = write(tmp_path, table(ROWS[0], '3,de-DE,train,home,lights_on,"mach das licht an', *ROWS[1:]))

    dataset = datasets.load(source, on_error="skip")

    assert [u.id for u in dataset.utterances] == ["0", "1", "2"]
    assert dataset.skipped == 1


def test_rows_within_a_closed_cell_are_found_by_their_separators(tmp_path: Path) -> None:
    rows = ('3,de-DE,train,home,on,"mach licht an', ROWS[0], ROWS[1], '4,de-DE,train,home,on,mach licht aus"')

    with pytest.raises(datasets.DatasetError, match=r"data\.csv:2: row: a cell goes on until line 5, over lines that"):
        read(write(tmp_path, table(*rows)))


def test_too_many_and_too_few_cells(tmp_path: Path) -> None:
    with pytest.raises(datasets.DatasetError, match=r":2: row: has more cells than the header's 2; quote cells that"):
        read(write(tmp_path, "text,locale\nja,bitte,de-DE\n"))
    dataset = read(write(tmp_path, "text,locale,intent\nja,de-DE\n"))
    assert "fewer cells than the header's 3" in said(dataset)


def test_slots_in_a_cell(tmp_path: Path) -> None:
    cells = (
        '"[{""name"": ""room"", ""start"": 9, ""end"": 12}]"',
        "9:12:room",
        "O O B-room O",
    )
    for cell in cells:
        source = write(tmp_path, f"text,locale,slots\nlicht im bad an,de-DE,{cell}\n")
        assert read(source).utterances[0].slots == (Slot("room", 9, 12),)
    with pytest.raises(datasets.DatasetError, match=r":2: slots: is 'bad'; allowed: a list of"):
        read(write(tmp_path, "text,locale,slots\nlicht im bad an,de-DE,bad\n"))


def test_a_marked_slot_names_the_column_and_how_it_is_written(tmp_path: Path) -> None:
    said = r":2: annotation: '\[' outside a slot \(in '\[room: bad\]': a space stands on both sides of the colon\)"

    with pytest.raises(datasets.DatasetError, match=said):
        read(write(tmp_path, table("0,de-DE,train,home,lights_on,mach das licht im [room: bad] an")))


def test_labels_that_are_numbers_are_said(tmp_path: Path) -> None:
    told = said(read(write(tmp_path, "text,locale,label\nja,de-DE,0\nnein,de-DE,1\n")))

    assert "intent: all 2 labels are numbers: their names are probably lost" in told


def test_text_that_was_read_in_another_encoding_is_said(tmp_path: Path) -> None:
    told = said(read(write(tmp_path, "text,locale\nwetter in kÃ¶ln,de-DE\n")))

    assert ":2: text: looks like UTF-8 that was read as Windows-1252: 'kÃ¶ln' for 'köln'" in told
