from __future__ import annotations

import json

import pytest

from benchmarks import sizes


def test_each_shape_is_a_row(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "ROUNDS", 1)
    monkeypatch.setattr(sizes, "CALLS", 1)

    assert sizes.main(["--sizes", "xs,s", "--vocabulary", "500"]) == 0

    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert [line.split(" | ")[0] for line in table[2:]] == ["| xs", "| s"]
    assert (found["s"]["layers"], found["s"]["hidden"]) == (4, 256)
    assert found["s"]["body"] == pytest.approx(3.2e6, rel=0.02)
    assert found["s"]["times"].keys() == {"8", "16", "32"}
    assert found["xs"]["bytes"] < found["s"]["bytes"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sizes", "xs,bert"], "bert; allowed: xxs, xs, s"),
        (["--vocabulary", "3"], "--vocabulary at least 100 tokens"),
    ],
)
def test_what_is_unknown_is_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main(flags) == 2

    assert message in capsys.readouterr().err
