"""The formats by name, in the order in which they are tried, and the rows of a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.data.formats import alexa, azure, hassil_sentences, json_rows, parquet, parts, rasa, sequences, tables
from training.data.formats.base import Content, File, Format, Reading, ReadOptions, Row
from training.data.formats.hub import HUB_PREFIX, read_hub
from training.data.formats.sources import files_of
from training.data.utterances import DatasetError

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("parquet", "Parquet or Arrow", parquet.is_parquet, parquet.read_parquet),
        Format("sequences", "seq.in, seq.out, label", sequences.is_sequences, sequences.read_sequences),
        Format("dialogflow", "Dialogflow ES", parts.is_dialogflow, parts.read_dialogflow),
        Format("hassil", "hassil sentences", hassil_sentences.is_hassil, hassil_sentences.read_hassil),
        Format("jsonl", "JSONL", json_rows.is_jsonl, json_rows.read_jsonl),
        Format("rasa-json", "Rasa JSON", json_rows.is_rasa_json, json_rows.read_rasa_json),
        Format("luis", "LUIS", azure.is_luis, azure.read_luis),
        Format("clu", "Azure CLU", azure.is_clu, azure.read_clu),
        Format("alexa", "Alexa interaction model", alexa.is_alexa, alexa.read_alexa),
        Format("snips", "Snips JSON", parts.is_snips, parts.read_snips),
        Format("json", "JSON list", json_rows.is_list, json_rows.read_list),
        Format("broken-json", "JSON", json_rows.is_broken, json_rows.read_broken),
        Format("rasa", "Rasa YAML", rasa.is_rasa, rasa.read_rasa),
        Format("snips-yaml", "Snips YAML", parts.is_snips_yaml, parts.read_snips_yaml),
        Format("rasa-markdown", "Rasa Markdown", rasa.is_markdown, rasa.read_markdown),
        Format("conll", "CoNLL", sequences.is_conll, sequences.read_conll),
        Format("csv", "CSV or TSV", tables.is_table, tables.read_table),
    )
}
_MAY_BE_ANYTHING = (".md", ".txt")  # a folder's README is no data


def rows_of(source: str, locales: Sequence[str] | None, reading: Reading) -> Iterator[tuple[File | None, Row]]:
    """The rows of a source, each with its file (None: of the hub).

    Raises DatasetError: no such source, no file of a known format, or one that can't be read.
    """
    if source.startswith(HUB_PREFIX):
        for row in read_hub(source.removeprefix(HUB_PREFIX), locales, reading):
            yield None, row
        return
    with files_of(source, locales) as files:
        unknown = []
        for file in files:
            content = file.open()
            found = _format_of(content, reading)
            if found is None:
                unknown.append(file)
                continue
            for row in found.read(content, reading):
                yield file, row
        if len(unknown) == len(files):
            raise DatasetError(f"{files[0].place}: {_UNKNOWN}")
        for file in unknown:
            if not file.name.endswith(_MAY_BE_ANYTHING):
                reading.notes.warn(file.place, "not read: the content is of no known format")


def format_of(source: str, options: ReadOptions) -> str | None:
    """The name of the format of a source's first file of a known one; None of the hub.

    Raises DatasetError: no such source, or a file that can't be opened.
    """
    if source.startswith(HUB_PREFIX):
        return None
    reading = Reading(options)
    with files_of(source, None) as files:
        return next((found.name for file in files if (found := _format_of(file.open(), reading))), None)


_UNKNOWN = "the content is of no known format; known: " + ", ".join(
    dict.fromkeys(one.title for one in FORMATS.values())
)


def _format_of(content: Content, reading: Reading) -> Format | None:
    name = reading.options.format
    if name and name not in FORMATS:
        raise DatasetError(f"--format {name}: unknown; allowed: {', '.join(FORMATS)}")
    if name:
        return FORMATS[name]
    return next((one for one in FORMATS.values() if one.detect(content)), None)
