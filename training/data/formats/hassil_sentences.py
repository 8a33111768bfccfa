"""Sentence templates of hassil, as of Home Assistant: sampled texts with their slots.

The library parses templates, lists and rules. Its own sampler gives all texts in order and no slots, so the walk over a
parsed template, which takes one text at random and notes where values stand, is here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from training.data.formats.base import Content, Draft, Reading, Row
from training.data.formats.values import list_of, record_of, text_of
from training.data.formats.yaml_nodes import looks_like_yaml
from training.data.utterances import DatasetError, RecordError, Slot, check_slot_name

MAX_SAMPLES = 10  # different texts of one template
_TRIES = 10 * MAX_SAMPLES
_PARTS = ("intents", "lists", "expansion_rules", "skip_words", "responses")
Part = tuple[str, str | None]  # a piece of text, and the slot whose value it is


class _NoValuesError(Exception):
    """A template needs a list of which the files have no values."""


def is_hassil(content: Content) -> bool:
    """YAML with the keys "language" and "intents", "lists" or "expansion_rules"; or JSON with such intents."""
    if isinstance(content.json, dict):
        intents = content.json.get("intents")
        named = intents.values() if isinstance(intents, dict) else ()
        blocks = [one.get("data") for one in named if isinstance(one, dict)]
        found = [block[0] for block in blocks if isinstance(block, list) and block]
        return any(isinstance(first, dict) and "sentences" in first for first in found)
    return looks_like_yaml(content, "language") and looks_like_yaml(content, *_PARTS)


@dataclass(frozen=True)
class _Templates:
    """The library, and what its templates refer to: lists and rules by name."""

    hassil: Any
    language: str
    lists: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)

    def with_more(self, content: Mapping[str, Any]) -> _Templates:
        """These, with the lists and rules of a file or of a block of sentences.

        Raises RecordError: one is not as hassil has it.
        """
        lists, rules = dict(self.lists), dict(self.rules)
        for name, value in record_of(content.get("lists"), "lists").items():
            lists[name] = self._list(name, value)
        for name, body in record_of(content.get("expansion_rules"), "expansion_rules").items():
            rules[name] = self.parse(text_of(body, f"expansion_rules.{name}"), f"expansion_rules.{name}")
        return _Templates(self.hassil, self.language, lists, rules)

    def _list(self, name: str, value: Any) -> Any:
        whole = {"language": self.language, "intents": {}, "lists": {name: value}}
        try:
            return self.hassil.Intents.from_dict(whole).slot_lists[name]
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError, self._parse_error) as error:
            allowed = "allowed: values (texts in quotes, or {in, out}), range {from, to}, or wildcard"
            raise RecordError(f"lists.{name}", f"is no list of hassil ({error!r}); {allowed}") from None

    def parse(self, template: str, name: str) -> Any:
        """A template as an expression of hassil. Raises RecordError: it is none, as where brackets don't match."""
        try:
            return self.hassil.parse_sentence(template).expression
        except (ValueError, AssertionError, LookupError, RecursionError, self._parse_error) as error:
            raise RecordError(
                name, f"{template!r} is no sentence of hassil ({error or type(error).__name__})"
            ) from None

    @property
    def _parse_error(self) -> type[Exception]:
        found: type[Exception] = import_module("hassil.parser").ParseError
        return found

    def sample(self, expression: Any, rng: random.Random) -> Iterator[Part]:
        """The parts of one text of an expression.

        Raises _NoValuesError: it needs a list without values. RecordError: it refers to a rule that is not there.
        """
        of = self.hassil
        if isinstance(expression, of.TextChunk):
            yield expression.original_text, None
        elif isinstance(expression, of.Alternative):
            yield from self.sample(rng.choice(expression.items), rng)
        elif isinstance(expression, of.Permutation):
            for item in rng.sample(expression.items, len(expression.items)):
                yield from self.sample(item, rng)
        elif isinstance(expression, of.Sequence):
            for item in expression.items:
                yield from self.sample(item, rng)
        elif isinstance(expression, of.RuleReference):
            if expression.rule_name not in self.rules:
                known = ", ".join(sorted(self.rules)) or "(none)"
                hint = "if it stands in another file, read the folder of both"
                raise RecordError("sentences", f"rule <{expression.rule_name}> is not there; found: {known}; {hint}")
            yield from self.sample(self.rules[expression.rule_name], rng)
        else:  # a list
            value = "".join(text for text, _ in self._value(expression, rng))
            yield value, None if expression.is_capture else expression.slot_name

    def _value(self, reference: Any, rng: random.Random) -> Iterator[Part]:
        of, found = self.hassil, self.lists.get(reference.list_name)
        if reference.is_inline_range:
            start, stop, step = reference.get_inline_range()
            yield str(rng.choice(range(start, stop + 1, step))), None
        elif isinstance(found, of.TextSlotList) and found.values:
            yield from self.sample(rng.choice(found.values).text_in, rng)
        elif isinstance(found, of.RangeSlotList):
            number = rng.choice(list(found.get_numbers()))
            if found.digits and (not found.words or rng.random() < 0.5):
                yield str(number), None
                return
            yield rng.choice(self._number_words(number, found.words_language or self.language)), None
        else:
            raise _NoValuesError(reference.list_name)

    @staticmethod
    def _number_words(number: float, language: str) -> list[str]:
        try:
            engine = import_module("hassil.numbers").get_rbnf_engine(language)
        except ValueError:
            allowed = "allowed: a language of unicode-rbnf, or digits alone, with words: false in the range"
            raise RecordError("language", f"there are no number words of {language!r}; {allowed}") from None
        return sorted(set(engine.format_number(number).text_by_ruleset.values()))


def read_hassil(content: Content, reading: Reading) -> Iterator[Row]:
    """At most `MAX_SAMPLES` different texts of each template of each intent, drawn with the options' seed.

    Lists and rules of all files of the folder count. A template whose lists have no values in them is noted and left
    out. Raises DatasetError: hassil is not installed, or a file is no YAML.
    """
    try:
        hassil = import_module("hassil")
    except ImportError as error:
        needs = "sentences of hassil need the extra: pip install 'distilled-nlu[hassil]'"
        raise DatasetError(f"{content.place}: {needs}") from error
    content.note_encoding(reading.notes)
    whole = _loaded(content)
    try:
        language = text_of(whole.get("language"), "language")
        intents = record_of(whole.get("intents"), "intents")
        if not intents:
            reading.notes.info(content.place, "holds no intents: its lists and rules serve the files beside it")
            return
        templates = _shared(content, _Templates(hassil, language)).with_more(whole)
    except RecordError as error:
        raise DatasetError(f"{content.place}: {error}") from None
    for name, intent in intents.items():
        yield from _intent(name, intent, templates, content.place, reading)


def _loaded(content: Content) -> dict[str, Any]:
    yaml = import_module("yaml")
    try:
        return record_of(yaml.load(content.text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), "row")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise DatasetError(f"{content.place}{line}: row: is no YAML ({getattr(error, 'problem', error)})") from None
    except RecordError as error:
        raise DatasetError(f"{content.place}: {error}") from None


def _shared(content: Content, templates: _Templates) -> _Templates:
    """The templates with the lists and rules of the other files of the folder."""
    for other in content.beside((".yaml", ".yml")):
        if looks_like_yaml(other, "lists", "expansion_rules") and is_hassil(other):
            found = _loaded(other)
            if found.get("language") == templates.language:
                try:
                    templates = templates.with_more(found)
                except RecordError as error:
                    raise DatasetError(f"{other.place}: {error}") from None
    return templates


def _intent(name: str, intent: Any, templates: _Templates, place: str, reading: Reading) -> Iterator[Row]:
    number = 0
    try:
        for block in list_of(record_of(intent, "intents").get("data"), "data"):
            fields = record_of(block, "data")
            local = templates.with_more(fields)
            if fields.get("slots"):
                reading.notes.info(f"{place}:{name}[{number}]", "slots with a fixed value stand in no text: not read")
            for sentence in list_of(fields.get("sentences"), "sentences"):
                where = f"{place}:{name}[{number}]"
                number += 1
                try:
                    template = text_of(sentence, "sentences")
                    yield from ((where, draft) for draft in _samples(template, name, local, where, reading))
                except RecordError as error:
                    yield where, error
    except RecordError as error:
        yield f"{place}:{name}[{number}]", error


def _samples(template: str, intent: str, templates: _Templates, place: str, reading: Reading) -> Iterator[Draft]:
    seed = reading.options.seed
    said = f"texts are sampled from templates, at most {MAX_SAMPLES} of each (seed {seed}: --split-seed)"
    reading.notes.info(place, said)
    expression = templates.parse(template, "sentences")
    rng = random.Random(f"{seed}:{intent}:{template}")  # so that another template changes no text of this one
    found: dict[str, Draft] = {}
    missing: set[str] = set()
    for _ in range(_TRIES):
        if len(found) == MAX_SAMPLES:
            break
        try:
            text, slots = _joined(templates.sample(expression, rng))
        except _NoValuesError as error:
            missing.add(str(error))
            continue
        except RecursionError:
            raise RecordError("sentences", f"{template!r}: a rule refers to itself") from None
        if text:
            found.setdefault(text, Draft(text, intent, slots, locale=templates.language))
    if missing:
        lists = ", ".join(f"{{{name}}}" for name in sorted(missing))
        which = "a template with" if not found else "texts with"
        said = f"{which} {lists} {'is' if not found else 'are'} not read: the files have no values for it"
        reading.notes.warn(place, f"{said}; add them: lists: NAME: values: [...]")
    yield from found.values()


def _joined(parts: Iterator[Part]) -> tuple[str, tuple[Slot, ...]]:
    """The text with single spaces, and its slots."""
    text, slots, space = "", [], False
    for piece, name in parts:
        start = None
        for character in piece:
            if character.isspace():
                space = bool(text)
                continue
            text += f" {character}" if space else character
            start, space = len(text) - 1 if start is None else start, False
        if name is not None and start is not None:
            check_slot_name(name, "sentences")
            slots.append(Slot(name, start, len(text)))
    return text, tuple(slots)
