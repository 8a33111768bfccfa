"""Messages about extras that are not installed."""

from __future__ import annotations

import pytest

from service.extras import MissingExtra, require


def test_installed_packages_are_no_error() -> None:
    require("training", "json", "numpy")


def test_the_first_missing_package_is_named_with_its_extra() -> None:
    sentence = "no_such_package is not installed; this command needs: pip install 'distilled-nlu[training]'"

    with pytest.raises(MissingExtra) as raised:
        require("training", "json", "no_such_package", "nor_this")

    assert str(raised.value) == sentence
    assert raised.value.name == "no_such_package"
    assert isinstance(raised.value, ImportError)
