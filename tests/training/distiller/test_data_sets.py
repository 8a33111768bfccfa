from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data.datasets import DatasetError
from training.distiller.data_sets import DataSet, load

NAMES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,8}", fullmatch=True)
SOURCES = st.sampled_from(["folder/data", "C:/data", "hub:AmazonScience/massive", "x=y.csv"])


@given(NAMES, SOURCES, st.sampled_from(["", "de-DE", "fil-PH"]), st.integers(0, 9999), st.sampled_from(["", "a b"]))
def test_a_data_set_is_written_in_one_word(name: str, source: str, locale: str, rows: int, domain: str) -> None:
    parts = [locale, str(rows or ""), domain and f"domain={domain}"]

    text = ":".join([f"{name}={source}", *(part for part in parts if part)])

    assert DataSet.parse(text) == DataSet(name, source, locale, rows, domain)


@pytest.mark.parametrize("text", ["data", "=data", "a/b=data", "name=", "name=:de-DE"])
def test_what_is_no_data_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: NAME=DATA"):
        DataSet.parse(text)


def test_cuts_hold_one_another(sample: Path) -> None:
    small, large = (load(DataSet("x", str(sample), "de-DE", rows)).data for rows in (30, 60))

    assert (len(small.train), len(large.train)) == (30, 60)
    assert set(small.train) < set(large.train)
    assert small.dev == large.dev
    assert set(small.labels.intent) <= {u.intent for u in small.train}
    assert small.served == ["de-DE"]


def test_features_are_those_of_the_cut(sample: Path) -> None:
    found = load(DataSet("x", str(sample), rows=120))

    facts = found.features
    assert facts["rows"] == len(found.data.train) == 120
    assert facts["locales"] == len({u.locale for u in found.data.train}) > 1
    assert facts["intents"] == len(found.data.labels.intent)
    assert facts["rows_per_intent"] == pytest.approx(120 / len(found.data.labels.intent), abs=0.01)
    assert facts["bag_of_words"] is not None
    assert 0 < facts["bag_of_words"] <= 100


def test_a_domain_can_be_chosen(sample: Path) -> None:
    domain = load(DataSet("x", str(sample))).data.labels.domain[0]

    assert load(DataSet("x", str(sample), domain=domain)).data.labels.domain == (domain,)


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"rows": 100_000}, "utterances of train; asked: 100000"), ({"domain": "none"}, "0 utterances of train in none")],
)
def test_too_little_data_is_refused(asked: dict[str, object], message: str, sample: Path) -> None:
    with pytest.raises(DatasetError, match=message):
        load(DataSet("x", str(sample), **asked))  # type: ignore[arg-type]
