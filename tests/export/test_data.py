from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from export.data import read_out_of_scope
from export.folder import ExportError
from training.text.corpus import CorpusError

LOCALES = ["de-DE", "en-US"]


def test_the_sample_has_out_of_scope_text_for_each_of_its_locales() -> None:
    outside = read_out_of_scope([], ["de-DE", "fr-FR", "it-IT", "es-ES", "en-US", "pt-PT"])

    assert list(outside) == ["de-DE", "fr-FR", "it-IT", "es-ES", "en-US"]
    for sources in outside.values():
        assert len(sources["sample"]) == 40
        assert all(text == text.lower() and text[-1].isalpha() for text in sources["sample"])


def test_sentences_are_normalised_and_limited(tmp_path: Path) -> None:
    lines = [
        "Zu kurz.",
        "— Er sagte: «L’album -- ist da»!",
        "Es waren 12 Monate.",
        "eins zwei " * 8,
        "So ist es.",
        "so ist es",
    ]
    (tmp_path / "novels.txt").write_text("\n".join(lines))
    with gzip.open(tmp_path / "many.txt.gz", "wt") as stream:
        stream.write("\n".join(f"a b {chr(97 + n % 26)}{'x' * (n // 26)}" for n in range(1500)))

    outside = read_out_of_scope([f"de-DE={tmp_path}/novels.txt,{tmp_path}/many.txt.gz"], LOCALES)

    assert sorted(outside["de-DE"]["novels"]) == ["er sagte l'album ist da", "so ist es"]
    assert len(outside["de-DE"]["many"]) == 1000
    assert outside == read_out_of_scope([f"de-DE={tmp_path}/novels.txt,{tmp_path}/many.txt.gz"], LOCALES)


def test_the_out_of_scope_lists_of_clinc150_are_read(tmp_path: Path) -> None:
    content = {"train": [["wake me up at nine", "alarm"]], "oos_test": [["how do trees breathe", "oos"]]}
    content["oos_train"] = [["a question that students may learn from", "oos"]]
    (tmp_path / "data_full.json").write_text(json.dumps(content))
    with gzip.open(tmp_path / "data_full.json.gz", "wt") as stream:
        stream.write(json.dumps(content))

    for name in ("data_full.json", "data_full.json.gz"):
        assert read_out_of_scope([f"en-US={tmp_path / name}"], LOCALES) == {
            "en-US": {"clinc150": ["how do trees breathe"]}
        }


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("de-DE", "de-DE has no locale; allowed: LOCALE=FILE"),
        ("a.txt,de-DE=b.txt", "a.txt has no locale; allowed: LOCALE=FILE"),
        ("pt-PT=x.txt", "x.txt has pt-PT; allowed: LOCALE=FILE,... with a locale of de-DE, en-US"),
        ("de-DE=", "names no file"),
        ("de-DE={folder}/a.txt,{folder}/a.txt", "named twice"),
        ("de-DE={folder}/short.txt", "no sentence of 3 to 15 words"),
        ("de-DE={folder}/a.json", "is not a data_full.json"),
        ("de-DE={folder}/list.json", "is not a data_full.json"),
        ("de-DE={folder}/none.txt", "no text there"),
    ],
)
def test_unusable_text_is_refused(tmp_path: Path, flag: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("das ist ein satz")
    (tmp_path / "short.txt").write_text("kurz")
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")

    with pytest.raises((ExportError, CorpusError), match=message):
        read_out_of_scope([flag.format(folder=tmp_path)], LOCALES)


def test_one_flag_may_name_files_of_several_locales(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"das ist satz {name}")

    found = read_out_of_scope([f"de-DE={tmp_path}/a.txt,{tmp_path}/b.txt,en-US={tmp_path}/c.txt"], LOCALES)

    assert {locale: list(sources) for locale, sources in found.items()} == {"de-DE": ["a", "b"], "en-US": ["c"]}
