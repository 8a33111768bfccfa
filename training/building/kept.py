"""The labelled data of a build, as it was read once: data.jsonl, and the places of its rows in the user's files.

Every stage reads data.jsonl, so flags that say how the data is read need not be passed on, and the split is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.data import datasets
from training.data.files import read_json, write_atomically, write_json
from training.data.formats.writers import jsonl
from training.data.utterances import Partition, Utterance
from training.evaluation.scoring import METRICS

DATA, PLACES = "data.jsonl", "places.json.gz"  # in the folder of the build


@dataclass(frozen=True)
class Kept:
    """Utterances, and where each stands (file and line)."""

    utterances: tuple[Utterance, ...]
    places: tuple[str, ...]

    def part(self, partition: Partition) -> list[Utterance]:
        """The utterances of a partition."""
        return [u for u in self.utterances if u.partition == partition]

    def metrics(self) -> list[str]:
        """The metrics that dev has labels for."""
        dev = self.part("dev")
        has = {
            "domain": any(u.domain for u in dev),
            "intent": any(u.intent for u in dev),
            "slots": any(u.slots_annotated for u in dev),
        }
        return [name for name, heads in METRICS.items() if all(has[head] for head in heads)]


def keep(out: Path, data: Kept) -> Path:
    """Write the data of a build. Returns its file.

    Raises DatasetError: the build in the folder was begun with other data, or there are no utterances to train on or
    to score on.
    """
    file, content = out / DATA, jsonl(data.utterances)[""]
    partitions: tuple[Partition, ...] = ("train", "dev")
    for partition in partitions:
        datasets.Dataset(str(file), data.utterances).part(partition)
    if not file.exists():
        write_json(out / PLACES, list(data.places))  # first, as data.jsonl says that both are there
        write_atomically(file, content)
    elif file.read_bytes() != content:
        ways = f"choose another --out, and --from {out} to continue from its students, or remove {out} to begin again"
        raise datasets.DatasetError(f"{file}: was made from other data, or with other flags for reading; {ways}")
    return file


def read_kept(out: Path) -> Kept:
    """Read the data of a build. Raises DatasetError: the folder has none, or it can't be read."""
    file = out / DATA
    if not file.is_file():
        raise datasets.DatasetError(f"{out}: holds no {DATA}; allowed: the --out of an earlier build")
    found = datasets.load(str(file), options=datasets.ReadOptions(dev_share=0))
    places = [str(place) for place in read_json(out / PLACES)]
    if len(places) != len(found.utterances):
        raise datasets.DatasetError(f"{out / PLACES}: has {len(places)} places for {len(found.utterances)} utterances")
    return Kept(found.utterances, tuple(places))
