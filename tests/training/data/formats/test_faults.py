"""Whatever is wrong with a file, the answer is a sentence: a DatasetError, no traceback."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from training.data import datasets

ENTITY = {"entity": "a", "startPos": 0, "endPos": 4}
JSON: dict[str, Any] = {
    "luis.json": {
        "luis_schema_version": "7",
        "utterances": [{"text": "licht an", "intent": "x", "entities": [ENTITY]}],
    },
    "clu.json": {"assets": {"utterances": [{"text": "a", "entities": [{"category": "a", "offset": 0, "length": 1}]}]}},
    "snips.json": {"intents": {"x": {"utterances": [{"data": [{"text": "a", "entity": "b"}]}]}}, "entities": {"b": {}}},
    "x_usersays_de.json": [{"data": [{"text": "a "}, {"text": "b", "alias": "c", "meta": "@c"}]}],
    "alexa.json": {
        "interactionModel": {
            "languageModel": {
                "intents": [{"name": "x", "slots": [{"name": "a", "type": "A"}], "samples": ["to {a}"]}],
                "types": [{"name": "A", "values": [{"name": {"value": "b", "synonyms": ["c"]}}]}],
            }
        }
    },
    "rasa.json": {"rasa_nlu_data": {"common_examples": [{"text": "a b", "intent": "x", "entities": [ENTITY]}]}},
    "rows.jsonl": {"id": "1", "text": "a b", "locale": "de-DE", "intent": "x", "slots": [{"name": "a", "start": 0}]},
}
TEXT = {
    "data.csv": 'id,locale,intent,annotation\n1,de-DE,x,"to [a : b]"\n2,de-DE,x,c\n',
    "nlu.yml": 'nlu:\n- intent: x\n  examples: |\n    - to [a](b)\n    - [c]{"entity": "d"}\n- synonym: e\n',
    "nlu.md": "## intent:x\n- to [a](b)\n",
    "snips.yaml": "type: intent\nname: x\nutterances:\n- to [a:b](c)\n",
    "data.conll": "# intent: x\na O\nb B-c\n\nd I-c\n",
    "seq.in": "a b\n",
}
OTHERS = st.sampled_from([None, True, 0, 1.5, -3, "", "x", [], [None], {}, {"a": 1}, "\ud83d"])


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """JSON in which some parts are of another type, or missing."""
    if draw(st.integers(0, 9)) == 0:
        return draw(OTHERS)
    if isinstance(value, dict):
        return {key: draw(changed(part)) for key, part in value.items() if draw(st.integers(0, 19))}
    if isinstance(value, list):
        return [draw(changed(part)) for part in value]
    return value


def load(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        for on_error in ("raise", "skip"):
            try:
                datasets.load(str(Path(folder) / name), ["de-DE"], on_error)  # type: ignore[arg-type]
            except datasets.DatasetError as error:
                assert name in str(error)  # noqa: PT017 - either outcome is right


@settings(max_examples=50)
@given(st.data(), st.sampled_from(sorted(JSON)))
def test_json_of_another_shape(data: st.DataObject, name: str) -> None:
    load(name, json.dumps(data.draw(changed(JSON[name]))).encode())


@settings(max_examples=50)
@given(st.data(), st.sampled_from(sorted(TEXT)), st.binary(max_size=3))
def test_text_with_other_bytes_in_it(data: st.DataObject, name: str, inserted: bytes) -> None:
    content = TEXT[name].encode()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, min(len(content), start + 5)))

    load(name, content[:start] + inserted + content[end:])
