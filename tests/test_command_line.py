"""Every command speaks the same language: one word for one thing, and help that names defaults and units."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module

import pytest

from distilled_nlu.cli import COMMANDS
from service.settings import parser as service_parser

BENCHMARKS = (
    "benchmarks.floor",
    "benchmarks.peers",
    "benchmarks.rasa",
    "benchmarks.export_recipes",
    "benchmarks.sizes",
    "benchmarks.selection",
)
OTHERS = ("loadtest.shadow", "loadtest.population")
MODULES = (*(command.module for command in COMMANDS.values()), *OTHERS, *BENCHMARKS)

# What a word means, by a part of its help. A flag of this name means this in every command that has it.
WORDS = {
    "--ckpt": "checkpoint",
    "--data": "labelled data",
    "--locales": "comma-separated",
    "--locale": "locale",
    "--generic": "plain sentences",
    "--corpus": "plain text",
    "--seed": "seed",
    "--on-error": "bad row",
    "--start-timeout": "seconds",
    "--out-of-scope": "[LOCALE=]FILE",
    "--check": "exit with code 1",
    "--model": "student",  # as the API calls a loaded student
    "--columns": "columns of the labelled data",
    "--offsets": "starts and ends of slots",
    "--format": "format of the labelled data",
    "--split-seed": "seed",
}
REPLACED = {
    "--eval": "--data",
    "--task": "--data",
    "--languages": "--locales",
    "--texts-locale": "--locale",
    "--corpus-lines": "--tokenizer-lines",
    "--target": "--check",
    "--targets": "--check",
    "--patience": "--start-timeout",
    "--of": "a telling name",
}
UNITS = re.compile(
    r"second|millisecond|minute|\bms\b|step|line|byte|piece|token|point|percent|%|0 to 1|share|rate|number|how many"
    r"|count|turn|session|request|connection|user|round|process|thread|epoch|stage|run|utterance|text|rows?\b|port|size|length|seed|weight"
    r"|power|chance|probability|temperature|dropout|factor|words?\b|characters|entries|items|times"
)


@cache
def parser_of(module: str) -> argparse.ArgumentParser:
    if module == "service.__main__":
        return service_parser()
    found: argparse.ArgumentParser = import_module(module).parser()
    return found


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from parsers(below)


def options(module: str) -> Iterator[tuple[argparse.Action, str]]:
    """The options of a command with their help as it is shown."""
    for parser in parsers(parser_of(module)):
        for action in parser._actions:
            if action.option_strings and action.dest != "help":
                yield action, parser._get_formatter()._expand_help(action) if action.help else ""


def one_of_several(module: str) -> list[argparse.Action]:
    """The options of which one has to be given."""
    groups = parser_of(module)._mutually_exclusive_groups
    return [action for group in groups if group.required for action in group._group_actions]


@pytest.mark.parametrize("module", MODULES)
def test_flags_are_not_abbreviated(module: str) -> None:
    assert not any(parser.allow_abbrev for parser in parsers(parser_of(module)))


@pytest.mark.parametrize("module", MODULES)
def test_a_word_means_one_thing(module: str) -> None:
    for action, shown in options(module):
        for flag in action.option_strings:
            assert flag not in REPLACED, f"{module} {flag}: the word is {REPLACED.get(flag)}"
            assert WORDS.get(flag, "") in f"{shown} {action.metavar or ''}", (
                f"{module} {flag}: {shown!r} should say {WORDS.get(flag)!r}"
            )


@pytest.mark.parametrize("module", MODULES)
def test_help_names_default_and_unit(module: str) -> None:
    for action, shown in options(module):
        name = f"{module} {action.option_strings[-1]}"
        assert shown, f"{name} has no help"
        is_switch = action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction)
        if not is_switch and not action.required and action not in one_of_several(module):
            assert "(default: " in shown, f"{name}: {shown!r} names no default"
        if action.type in (int, float) or (isinstance(action.default, int | float) and not is_switch):
            assert UNITS.search(f"{shown} {action.metavar or ''}".lower()), f"{name}: {shown!r} names no unit"
