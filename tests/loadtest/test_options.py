"""The options shared with locust."""

from __future__ import annotations

import argparse

import pytest

from loadtest.load.options import Options, add_options


def parse(*flags: str) -> Options:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return Options.of(parser.parse_args(flags))


def test_defaults_of_parser_and_class_agree() -> None:
    assert parse() == Options()


def test_flags_are_the_inverse_of_parsing() -> None:
    options = Options(texts="-a b", locales="de-DE, fr-FR", batch_share=0.0, rate=0.0, model="xl")

    assert parse(*options.flags()) == options
    assert options.locale_names == ["de-DE", "fr-FR"]


def test_locales_have_weights() -> None:
    options = parse("--locales", "de-DE=3, fr-FR,it-IT=0.5")

    assert options.locale_names == ["de-DE", "fr-FR", "it-IT"]
    assert options.locale_weights == {"de-DE": 3, "fr-FR": 1, "it-IT": 0.5}
    assert parse().locale_weights == {}


def test_empty_fields_of_the_web_page_are_not_given() -> None:
    assert Options.of(argparse.Namespace(texts="", model="", rate=0.0)) == Options(rate=0.0)


@pytest.mark.parametrize(
    ("flag", "allowed"),
    [
        ("--batch-share=1.5", "a number from 0 to 1"),
        ("--batch-size=0", "a whole number from 1"),
        ("--batch-size=2.5", "a whole number from 1"),
        ("--rate=-1", "0 or more"),
        ("--rate=nan", "0 or more"),
        ("--reply-timeout=0", "a number above 0"),
        ("--locales=de-DE=0,fr-FR", "a number above 0"),
        ("--locales=de-DE=many", "a number above 0"),
        ("--rate=fast", "0 or more"),
    ],
)
def test_values_out_of_range_say_what_is_allowed(flag: str, allowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(flag)

    assert f"should be {allowed}" in capsys.readouterr().err
