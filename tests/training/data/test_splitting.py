from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from training.data.splitting import is_chosen


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_the_ids_of_a_smaller_one(name: str, share: float, other: float) -> None:
    small, large = sorted((share, other))

    assert is_chosen(name, 1)
    assert not is_chosen(name, 0)
    assert is_chosen(name, large) or not is_chosen(name, small)


def test_about_a_share_of_the_ids_is_chosen() -> None:
    chosen = sum(is_chosen(str(i), 0.5) for i in range(2000))

    assert 900 < chosen < 1100
