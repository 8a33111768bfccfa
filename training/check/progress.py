"""What the command and `training.build` share: progress, and places that may be published."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from training.data import datasets


def shortened(dataset: datasets.Dataset) -> list[str]:
    """The places of the utterances without the folders above an absolute source, which may name a person."""
    source = Path(dataset.source)
    above = f"{source.parent}/" if source.is_absolute() else ""
    return [place.removeprefix(above) for place in dataset.places]


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Show what is being done, on standard error, from the second second on."""
    from tqdm import tqdm

    with tqdm(bar_format="{desc} [{elapsed}]", delay=1, file=sys.stderr, leave=False) as bar:

        def show(step: str) -> None:
            bar.set_description_str(f"checking: {step}")
            bar.update()

        yield show
