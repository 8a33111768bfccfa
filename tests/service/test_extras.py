"""What is said where an extra is not installed."""

from __future__ import annotations

import pytest

from service.extras import MissingExtra, require


def test_what_is_installed_is_not_spoken_of() -> None:
    require("training", "json", "numpy")


def test_the_first_package_that_is_missing_is_named_with_its_extra() -> None:
    sentence = "no_such_package is not installed; this command needs: pip install 'distilled-nlu[training]'"

    with pytest.raises(MissingExtra) as raised:
        require("training", "json", "no_such_package", "nor_this")

    assert str(raised.value) == sentence
    assert raised.value.name == "no_such_package"
    assert isinstance(raised.value, ImportError)
