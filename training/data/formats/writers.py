"""Writers: JSONL, CSV, Rasa YAML, Azure CLU. Reading what was written gives the same texts, intents and slots."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from training.data.utterances import DatasetError, Slot, Utterance

Files = dict[str, bytes]  # by name; "" is the file itself
_PLAIN_NAME = re.compile(r"[^()\[\]{}:\s][^()\[\]{}:]*")
_CLU_PARTITIONS = {"train": "Train", "dev": "Train", "test": "Test"}


class CannotWriteError(DatasetError):
    """A format can't express an utterance; the message names its id and why."""


def jsonl(utterances: Sequence[Utterance]) -> Files:
    """The project's JSONL: every field of every utterance."""
    return {"": b"".join(json.dumps(row_of(u), ensure_ascii=False).encode() + b"\n" for u in utterances)}


def row_of(utterance: Utterance) -> dict[str, Any]:
    """The project's JSONL row of an utterance. Slots that were not annotated are null."""
    names = ("id", "text", "locale", "partition", "domain", "intent")
    slots = [{"name": s.name, "start": s.start, "end": s.end} for s in utterance.slots]
    return {**{name: getattr(utterance, name) for name in names}, "slots": slots if utterance.slots_annotated else None}


def table(utterances: Sequence[Utterance]) -> Files:
    """CSV with every field; slots as JSON, an empty cell where they are not annotated."""
    stream = io.StringIO(newline="")
    names = ("id", "text", "locale", "partition", "domain", "intent", "slots")
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(names)
    for utterance in utterances:
        row = row_of(utterance)
        slots = "" if row["slots"] is None else json.dumps(row["slots"], ensure_ascii=False)
        rows.writerow([*("" if row[name] is None else row[name] for name in names[:-1]), slots])
    return {"": stream.getvalue().encode()}


def rasa(utterances: Sequence[Utterance]) -> Files:
    """Rasa YAML, one file for each partition and locale; ids and domains have no place in it.

    Raises CannotWriteError: an utterance has no intent, or a text that its marks can't express.
    """
    parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for utterance in utterances:
        if utterance.intent is None:
            raise CannotWriteError(f"{utterance.id}: intent: is missing; Rasa needs one")
        if utterance.intent != utterance.intent.strip():
            raise CannotWriteError(f"{utterance.id}: intent: {utterance.intent!r} has outer spaces, which Rasa drops")
        parts[f"{utterance.partition}/{utterance.locale}.yml"][utterance.intent].append(_marked(utterance))
    return {name: _rasa_file(intents) for name, intents in sorted(parts.items())}


def _marked(utterance: Utterance) -> str:
    text = utterance.text
    if text != " ".join(text.split(" ")).strip() or re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\[\]]", text):
        problem = "has outer spaces, control characters or square brackets, which Rasa's marks can't express"
        raise CannotWriteError(f"{utterance.id}: text: {problem}")
    marked, position = "", 0
    for slot in utterance.slots:
        if utterance.value(slot) != utterance.value(slot).strip():
            raise CannotWriteError(f"{utterance.id}: slots: {slot.name!r} takes in spaces, which Rasa drops")
        marked += text[position : slot.start] + _mark(utterance.value(slot), slot)
        position = slot.end
    return marked + text[position:]


def _mark(value: str, slot: Slot) -> str:
    if _PLAIN_NAME.fullmatch(slot.name):
        return f"[{value}]({slot.name})"
    entity = json.dumps(slot.name, ensure_ascii=False).replace("{", "\\u007b").replace("}", "\\u007d")
    return f'[{value}]{{"entity": {entity}}}'


def _rasa_file(intents: Mapping[str, Iterable[str]]) -> bytes:
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise DatasetError("YAML needs the extra: pip install 'distilled-nlu[training]'") from error

    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})

    class Block(str):
        __slots__ = ()

    def block(of: Any, text: Block) -> Any:
        return of.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")

    dumper.add_representer(Block, block)
    nlu = [
        {"intent": intent, "examples": Block("".join(f"- {text}\n" for text in texts))}
        for intent, texts in intents.items()
    ]
    content = {"version": "3.1", "nlu": nlu}
    return bytes(
        yaml.dump(content, Dumper=dumper, allow_unicode=True, sort_keys=False, width=1 << 20, encoding="utf-8")
    )


def clu(utterances: Sequence[Utterance]) -> Files:
    """An Azure CLU project with offsets in UTF-16 units; ids and domains have no place in it, dev is trained on.

    Raises CannotWriteError: an utterance has no intent.
    """
    rows = []
    for utterance in utterances:
        if utterance.intent is None:
            raise CannotWriteError(f"{utterance.id}: intent: is missing; CLU needs one")
        rows.append(
            {
                "text": utterance.text,
                "language": utterance.locale.lower(),
                "intent": utterance.intent,
                "entities": [_clu_entity(utterance.text, slot) for slot in utterance.slots],
                "dataset": _CLU_PARTITIONS[utterance.partition],
            }
        )
    names: dict[str, set[str]] = {
        "intents": {str(u.intent) for u in utterances},
        "entities": {slot.name for u in utterances for slot in u.slots},
    }
    locales = sorted({u.locale.lower() for u in utterances})
    project = {
        "projectFileVersion": "2023-04-01",
        "stringIndexType": "Utf16CodeUnit",
        "metadata": {
            "projectKind": "Conversation",
            "projectName": "distilled-nlu",
            "multilingual": len(locales) > 1,
            "language": locales[0] if locales else "en-us",
        },
        "assets": {
            "projectKind": "Conversation",
            **{kind: [{"category": name} for name in sorted(found)] for kind, found in names.items()},
            "utterances": rows,
        },
    }
    return {"": (json.dumps(project, ensure_ascii=False, indent=1) + "\n").encode()}


def _clu_entity(text: str, slot: Slot) -> dict[str, Any]:
    start, length = (len(part.encode("utf-16-le")) // 2 for part in (text[: slot.start], text[slot.start : slot.end]))
    return {"category": slot.name, "offset": start, "length": length}


WRITERS: dict[str, Callable[[Sequence[Utterance]], Files]] = {
    "jsonl": jsonl,
    "csv": table,
    "rasa": rasa,
    "clu": clu,
}
