"""A partition dev for data that has none, drawn by group and stratified by intent; and shares of a partition by id."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from hashlib import blake2b

from training.data.utterances import Utterance

MIN_GROUPS = 3  # an intent with fewer has no dev utterances


def dev_rows(utterances: Sequence[Utterance], share: float, seed: int) -> set[int]:
    """The indices of the utterances that become dev.

    Utterances with one id (translations) or one text (but for case and white space) are one group, and stay together.
    Of each intent about `share` of the groups are drawn, at least one of three; which ones depends on the seed and the
    group's smallest id, not on the order of the rows.
    """
    by_intent: dict[str, list[list[int]]] = defaultdict(list)
    for group in _groups(utterances):
        by_intent[min(utterances[i].intent or "" for i in group)].append(group)
    chosen: set[int] = set()
    for groups in by_intent.values():
        if len(groups) < MIN_GROUPS or share <= 0:
            continue
        count = max(1, round(share * len(groups)))
        order = sorted(groups, key=lambda group: _rank(seed, min(utterances[i].id for i in group)))
        chosen.update(i for group in order[:count] for i in group)
    return chosen


def is_chosen(name: str, share: float) -> bool:
    """Whether an id belongs to a share of all ids (0 to 1): by its hash, so the same in each locale and each time."""
    return int.from_bytes(_rank(0, name), "big") < share * 2**64


def _rank(seed: int, name: str) -> bytes:
    return blake2b(f"{seed}:{name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _groups(utterances: Sequence[Utterance]) -> list[list[int]]:
    """Connected components: two utterances are connected by an id or by a text."""
    parent = list(range(len(utterances)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[Hashable, int] = {}
    for i, utterance in enumerate(utterances):
        for key in _keys(utterance):
            parent[root(i)] = root(first.setdefault(key, i))
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(utterances)):
        groups[root(i)].append(i)
    return list(groups.values())


def _keys(utterance: Utterance) -> Iterator[Hashable]:
    yield "id", utterance.id
    yield "text", " ".join(utterance.text.casefold().split())
