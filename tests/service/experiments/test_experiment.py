"""Experiments: valid and invalid files, assignment to arms, and changes without a restart."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys
import timeit
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.experiments.experiment import (
    MAX_BYTES,
    MAX_LINE_LENGTH,
    Experiment,
    ExperimentError,
    ExperimentFile,
    FrictionRules,
    split_key,
)
from tests.service.conftest import Clock
from tests.service.server import until

ROOT = Path(__file__).parents[3]
FULL = """
name = "xs-for-s"
[arms.control]
model = "s"
weight = 90
[arms.candidate]
model = "xs"
weight = 10
[shadow]
model = "m"
share = 0.1
[friction]
rephrase_seconds = 20
similarity = 0.6
confidence = 0.25
session_seconds = 120
"""
SHADOW = '[shadow]\nmodel = "m"\nshare = 1\n'
CLIENTS = [f"client-{number}".encode() for number in range(4000)]
FROZEN = "bbbaaababaababbabbbaababbabababa"  # arms of the first clients; a change would reassign all users
ALLOWED_NAME = "should be 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"


def read(folder: Path, content: str | bytes) -> Experiment:
    path = folder / "experiment.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ExperimentFile(path).current


def split(name: str = "experiment", **weights: float) -> Experiment:
    return Experiment.model_validate(
        {"name": name, "arms": {arm: {"model": "s", "weight": weight} for arm, weight in weights.items()}}
    )


def arms(experiment: Experiment) -> list[str | None]:
    return [experiment.arm_of(client) for client in CLIENTS]


def test_a_file_with_all_fields(tmp_path: Path) -> None:
    found = read(tmp_path, FULL)

    assert found.name == "xs-for-s"
    assert [(name, arm.model, arm.weight) for name, arm in found.arms.items()] == [
        ("control", "s", 90),
        ("candidate", "xs", 10),
    ]
    assert found.shadow is not None
    assert (found.shadow.model, found.shadow.share) == ("m", 0.1)
    assert found.friction == FrictionRules(rephrase_seconds=20, similarity=0.6, confidence=0.25, session_seconds=120)


def test_a_file_with_only_a_shadow_takes_defaults_and_has_no_arms(tmp_path: Path) -> None:
    found = read(tmp_path, b"\xef\xbb\xbf" + SHADOW.encode())

    assert found.name == "experiment"
    assert found.arm_of(b"anyone") is None
    assert found.friction == FrictionRules(rephrase_seconds=30, similarity=0.5, confidence=0.3, session_seconds=300)


def test_a_single_arm_gets_everyone(tmp_path: Path) -> None:
    assert set(arms(read(tmp_path, '[arms.only]\nmodel = "s"\nweight = 0.001'))) == {"only"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", ": has neither arms nor a shadow; it should have a table [arms.NAME], [shadow], or both"),
        ("name = ", " is not TOML: Invalid value (at end of document)"),
        (b"name = '\xff'", " is not UTF-8"),
        ("#" * (MAX_BYTES + 1), f" is larger than {MAX_BYTES} bytes"),
        (f"colour = 3\n{SHADOW}", ": colour is unknown; allowed are name, arms, shadow, friction"),
        (f"name = 3\n{SHADOW}", f": name {ALLOWED_NAME}"),
        (f'name = "a b"\n{SHADOW}', f": name {ALLOWED_NAME}"),
        (f'name = "a\\n"\n{SHADOW}', f": name {ALLOWED_NAME}"),
        (f'name = "{"a" * 65}"\n{SHADOW}', f": name {ALLOWED_NAME}"),
        (f'name = "none"\n{SHADOW}', ": an experiment or arm should not be named 'none'"),
        ('[arms.none]\nmodel = "s"\nweight = 1', ": an experiment or arm should not be named 'none'"),
        ("arms = 3", ": arms should be a table"),
        ("[arms]\na = 3", ": arms.a should be a table"),
        ("[arms.a]\nweight = 3", ": arms.a.model is missing"),
        ('[arms.a]\nmodel = "s"', ": arms.a.weight is missing"),
        ('[arms.a]\nmodel = "s"\nweight = 1\nwait = 2', ": arms.a.wait is unknown; allowed are model, weight"),
        ('[arms."a\\nb"]\nmodel = "s"\nweight = 1', f": arms.'a\\nb' {ALLOWED_NAME}"),
        ('[arms.a]\nmodel = "s/.."\nweight = 1', f": arms.a.model {ALLOWED_NAME}"),
        ('[arms.a]\nmodel = "s"\nweight = -1', ": arms.a.weight should be a number from 0 to 1000000"),
        ('[arms.a]\nmodel = "s"\nweight = nan', ": arms.a.weight should be a number from 0 to 1000000"),
        ('[arms.a]\nmodel = "s"\nweight = inf', ": arms.a.weight should be a number from 0 to 1000000"),
        ('[arms.a]\nmodel = "s"\nweight = true', ": arms.a.weight should be a number from 0 to 1000000"),
        ('[arms.a]\nmodel = "s"\nweight = "1"', ": arms.a.weight should be a number from 0 to 1000000"),
        ('[arms.a]\nmodel = "s"\nweight = 0', ": arms: the weights are all 0; one of them should be above 0"),
        ('[shadow]\nmodel = "m"\nshare = 1.1', ": shadow.share should be a number from 0 to 1"),
        ('[shadow]\nmodel = "m"', ": shadow.share is missing"),
        (SHADOW + "[friction]\nsimilarity = 2", ": friction.similarity should be a number from 0 to 1"),
        (SHADOW + "[friction]\nsession_seconds = 0", ": friction.session_seconds should be a number from 1 to 86400"),
        (
            SHADOW + "[friction]\nwords = 5",
            ": friction.words is unknown; allowed are rephrase_seconds, similarity, confidence, session_seconds",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: str | bytes, problem: str) -> None:
    with pytest.raises(ExperimentError) as caught:
        read(tmp_path, content)

    assert str(caught.value).startswith(f"experiment file {tmp_path / 'experiment.toml'}{problem}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"nowhere cannot be read: No such file or directory$"):
        ExperimentFile(tmp_path / "nowhere")


@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_no_content_raises_anything_but_the_one_error(tmp_path: Path, content: bytes) -> None:
    try:
        read(tmp_path, content)
    except ExperimentError as error:
        assert "\n" not in str(error)  # noqa: PT017 - most content is refused, and need not be


values = st.recursive(
    st.one_of(st.integers(), st.floats(), st.booleans(), st.text(max_size=8)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "arms", "model", "weight", "shadow", "share", "friction", "x"]), inner
        )
    ),
)


@given(tables=st.dictionaries(st.sampled_from(["name", "arms", "shadow", "friction"]), values))
def test_no_tables_raise_anything_but_the_one_error(tmp_path: Path, tables: dict[str, Any]) -> None:
    lines = [f"{name} = {_toml(value)}" for name, value in tables.items()]
    try:
        read(tmp_path, "\n".join(lines))
    except ExperimentError as error:
        assert "is not TOML" not in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    return repr(value)


def test_clients_are_split_by_weight_and_stay() -> None:
    experiment = split(control=3, candidate=1)

    found = Counter(arms(experiment))

    assert found["candidate"] == pytest.approx(1000, abs=110)  # four standard deviations
    assert found.total() == found["control"] + found["candidate"]
    assert arms(split(control=3, candidate=1)) == arms(split(control=0.75, candidate=0.25)) == arms(experiment)


def test_another_name_shuffles_the_clients() -> None:
    one, other = arms(split("one", a=1, b=1)), arms(split("other", a=1, b=1))

    assert sum(first == second for first, second in zip(one, other, strict=True)) == pytest.approx(2000, abs=130)


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=2, max_size=5),
    moved=st.integers(0, 3),
    part=st.floats(0, 1),
)
def test_weight_that_goes_from_an_arm_to_its_neighbour_moves_only_clients_between_them(
    weights: list[float], moved: int, part: float
) -> None:
    assume(sum(weights) > 0)
    moved %= len(weights) - 1
    shifted = [*weights]
    shifted[moved] -= part * weights[moved]
    shifted[moved + 1] += part * weights[moved]
    assume(max(shifted) <= 1e6)
    before, after = (split(**{f"arm{i}": w for i, w in enumerate(found)}) for found in (weights, shifted))

    for client in CLIENTS[:200]:
        pair = before.arm_of(client), after.arm_of(client)
        assert pair[0] == pair[1] or pair == (f"arm{moved}", f"arm{moved + 1}")


@given(weights=st.lists(st.one_of(st.just(0.0), st.floats(0, 1e6)), min_size=1, max_size=6), key=st.binary())
def test_an_arm_of_weight_0_gets_no_clients(weights: list[float], key: bytes) -> None:
    assume(any(weights))
    experiment = split(**{f"arm{i}": weight for i, weight in enumerate(weights)})

    for client in (key, *CLIENTS[:50]):
        arm = experiment.arm_of(client)
        assert arm is not None
        assert experiment.arms[arm].weight > 0


def test_the_arm_is_the_same_in_each_process_and_forever() -> None:
    program = (
        "from service.experiments.experiment import Experiment\n"
        "arms = {'a': {'model': 's', 'weight': 1}, 'b': {'model': 'xs', 'weight': 1}}\n"
        "experiment = Experiment.model_validate({'name': 'frozen', 'arms': arms})\n"
        "print(''.join(experiment.arm_of(b'client-%d' % i) for i in range(32)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)

    here = "".join(arm or "" for arm in arms(split("frozen", a=1, b=1))[:32])
    assert done.stdout.strip() == here == FROZEN


def test_the_key_is_the_clients_or_else_the_requests() -> None:
    assert split_key(b"me", "4f2a") == b"me"
    assert split_key(None, "4f2a") == split_key(b"", "4f2a") == b"4f2a"


@pytest.mark.slow
def test_an_arm_costs_microseconds() -> None:
    experiment = split(control=90, candidate=10)

    seconds = min(timeit.repeat(lambda: experiment.arm_of(b"client-4711"), number=2000, repeat=5)) / 2000

    assert seconds < 20e-6  # of a machine that is busy; idle it takes about one


def test_weights_move_without_a_restart_and_a_bad_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, clock = tmp_path / "experiment.toml", Clock()
    path.write_text(FULL)
    file = ExperimentFile(path, clock)
    before = arms(file.current)
    path.write_text(FULL.replace("weight = 90", "weight = 80").replace("weight = 10", "weight = 20"))
    assert arms(file.current) == before  # not checked within the second

    clock.now += 1
    until(lambda: arms(file.current) != before)
    after = arms(file.current)
    path.write_text("weight = ")
    for _ in itertools.repeat(None, 3):
        file.check()
        assert arms(file.current) == after

    moved = Counter(pair for pair in zip(before, after, strict=True) if pair[0] != pair[1])
    assert set(moved) == {("control", "candidate")}
    assert moved.total() == pytest.approx(400, abs=80)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert caplog.messages[0].endswith(
        "was read again, experiment xs-for-s, arms: control s 80, candidate xs 20; shadow: m 0.1"
    )
    assert caplog.messages[1].endswith("; the experiment continues unchanged")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (".".join("a" * 30_000) + " = 1", f" is larger than {MAX_BYTES} bytes"),
        (".".join("a" * 8000) + " = 1", f", line 1: a line may have at most {MAX_LINE_LENGTH} characters"),
        ("[" + ".".join("a" * 8000) + "]", f", line 1: a line may have at most {MAX_LINE_LENGTH} characters"),
        ("[shadow]\nmodel = 's'\nshare = 1" + "0" * 5000, ", line 3: a line may have at most"),
        ("a = " + "[\n" * 5000, " is nested too deeply"),
        ("a = " + "[" * 5000, ", line 1: a line may have at most"),
        ("a = " + "{b=" * 80, " is not TOML"),
        ("[shadow]\nmodel = 's'\nshare = 0.5\n" + ".".join("a" * 100) + " = 1", ": shadow.a is unknown"),
    ],
)
def test_content_that_would_take_long_to_parse_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text(content)

    with pytest.raises(ExperimentError) as caught:
        ExperimentFile(file)

    assert str(caught.value).startswith(f"experiment file {file}{problem}")
    assert "\n" not in str(caught.value)


def test_patient_file_has_no_experiment_until_it_is_valid(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text("[arms")
    patient = ExperimentFile(file, patient=True)

    assert (patient.current.arms, patient.current.shadow) == ({}, None)
    assert "is not TOML" in caplog.text

    file.write_text("[shadow]\nmodel = 's'\nshare = 0.5\n")
    patient.check()
    assert patient.current.shadow is not None
