"""The table of student sizes, and the activations."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """Shape of an encoder; feed-forward width is 4 x hidden, attention heads are `hidden` / 64."""

    layers: int
    hidden: int


SIZES: dict[str, Size] = {
    "xxs": Size(1, 128),  # for studies of what small students need
    "xs": Size(2, 128),  # the fastest that is still useful
    "s": Size(4, 256),  # the default; shipped with the service
    "m": Size(6, 384),
    "l": Size(12, 384),  # the shape of multilingual-e5-small and MiniLM L12
    "xl": Size(12, 768),  # the shape of XLM-R Base
    "xxl": Size(24, 768),  # the 170M intermediate student of Alexa Teacher Model (FitzGerald et al., KDD 2022)
}

DEFAULT_SIZE = "s"
ACTIVATIONS = ("gelu", "relu")  # names in torch.nn.functional
DEFAULT_ACTIVATION = "gelu"
