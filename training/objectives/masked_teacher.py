"""A masked-language teacher's predictions on disk: it reads a transfer set once, and all runs on it reuse that.

A cache holds a folder for each teacher and text. Masks are fixed: each line has as many masks as there are variants,
and passes over the text take turns with them. Of each prediction the most probable tokens are kept, and the mass of all
others together. The arrays are appended to and memory-mapped, so that any number of lines fits.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from training.data.files import write_json
from training.models.batches import IGNORED, in_length_order
from training.models.devices import Split, autocast_of
from training.objectives.appended import append, cut, mapped
from training.objectives.losses import truncated_kl
from training.objectives.masked_language import MaskedBatch, MaskedText, mask_tokens
from training.objectives.teacher_logits import DIGITS
from training.text.lines import padded

PART = 4096  # lines that are masked, read and written together
BATCH = 128  # lines that the teacher reads together
MASK_SEED = 2  # of the masks, whatever the seed of a run

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Kept:
    """What a cache keeps: the share of masked tokens, the tokens of a prediction, and the temperature of its mass."""

    masked_share: float
    cached_tokens: int
    temperature: float


@dataclass(frozen=True)
class TaughtBatch:
    """A masked batch with the teacher's most probable tokens at its targets.

    tokens: [targets, k]; log_p: logarithms of their softened probabilities and of the rest's, [targets, k + 1].
    """

    masked: MaskedBatch
    tokens: Tensor
    log_p: Tensor

    def to(self, device: torch.device) -> TaughtBatch:
        """The batch on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in ("masked", "tokens", "log_p")})

    def soft_loss(self, logits: Tensor, temperature: float) -> Tensor:
        """The divergence of the student's logits [targets, vocabulary] from the teacher's predictions."""
        return truncated_kl(logits, self.tokens, self.log_p, temperature)


class MaskedTeacher:
    """The predictions of one teacher for one text.

    The arrays begin anew with each variant: `shown`, the ids with masks, and `chosen`, the masked places, [tokens of
    the text]; `ends`, the number of predictions up to a line, [lines]. `tokens` [predictions, k] and `log_p`
    [predictions, k + 1], float16, are in the order of their places.
    """

    def __init__(self, cache: Path, teacher: str, text: MaskedText, kept: Kept) -> None:
        """Map what the cache holds of the teacher with that digest and this text."""
        lines = text.lines
        read = {"lines": len(lines), "tokens": len(lines.tokens), "checksum": lines.checksum}
        facts = {"teacher": teacher, **read, **asdict(kept), "seed": MASK_SEED}
        name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:DIGITS]
        self.text, self.k = text, min(kept.cached_tokens, text.vocabulary)
        self._kept, self._facts, self._folder = kept, facts, cache / f"masked-{name}"
        self._map()

    def add(self, model: Any, variants: int, precision: str = "auto") -> None:
        """Let the teacher read as many variants of the text, but for those that are there.

        An interrupted call loses at most `PART` lines. Other processes that add to the folder wait for each other.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._folder / ".lock"):
            self._map()
            cut(self._folder, {name: getattr(self, name) for name in ("shown", "chosen", "tokens", "log_p", "ends")})
            write_json(self._folder / "cache.json", self._facts)
            lines = len(self.text.lines)
            look: dict[str, Any] = {"desc": "asking the teacher", "unit": "line"}
            look["mininterval"] = 0.5 if sys.stderr.isatty() else 15
            done, total = len(self.ends), variants * lines
            with tqdm(total=total, initial=min(done, total), disable=done >= total, **look) as bar:
                while done < total:
                    variant, first = divmod(done, lines)
                    rows = np.arange(first, min(first + PART, lines))
                    self._append(model, variant, rows, precision, done)
                    done += len(rows)
                    bar.update(len(rows))
        self._map()

    @property
    def variants(self) -> int:
        """The complete variants."""
        return len(self.ends) // len(self.text.lines)

    @property
    def mass(self) -> float:
        """The mean probability that the kept tokens have together, over the first predictions."""
        return float(1 - np.exp(self.log_p[:100_000, -1].astype(np.float32)).mean())

    def batch(self, rows: Ints, variant: int, split: Split) -> TaughtBatch:
        """This process's part of the rows of a step, with the masks of a variant. Raises IndexError: there is none."""
        if not 0 <= variant < self.variants:
            raise IndexError(f"variant {variant}; there are {self.variants}")
        lines, whole, part = self.text.lines, split.enough(rows), split.part_of(rows)
        places = _spans(lines.starts[part], lines.starts[part + 1])
        moved = variant * len(lines.tokens) + places
        lengths = lines.starts[part + 1] - lines.starts[part]
        cuts = np.cumsum(lengths)[:-1]
        shown, mask = padded(np.split(self.shown[moved].astype(np.int64), cuts), self.text.special.pad)
        known = np.where(self.chosen[moved], lines.tokens[places].astype(np.int64), IGNORED)
        targets, _ = padded(np.split(known, cuts), IGNORED)
        firsts, ends = self._answers(part, variant)
        found = _spans(firsts, ends)
        total = int((np.subtract(*reversed(self._answers(whole, variant)))).sum())
        tokens, log_p = self.tokens[found].astype(np.int64), self.log_p[found]
        masked = MaskedBatch(shown, mask, targets, total)
        return TaughtBatch(masked, torch.from_numpy(tokens), torch.from_numpy(log_p))

    def _answers(self, rows: Ints, variant: int) -> tuple[Ints, Ints]:
        """The first prediction of each row, and the one after its last."""
        at = variant * len(self.text.lines) + rows
        return np.where(at > 0, self.ends[at - 1], 0), self.ends[at]

    def _append(self, model: Any, variant: int, rows: Ints, precision: str, done: int) -> None:
        """Write the predictions for rows. The ends come last: lines without them do not count."""
        text = self.text
        input_ids, attention = text.lines.batch(rows, text.special.pad)
        generator = torch.Generator().manual_seed(_seed_of(variant, int(rows[0])))
        shown, targets = mask_tokens(input_ids, text.share, text.special, text.vocabulary, generator)
        chosen, there = targets != IGNORED, attention.bool()
        counts = chosen.sum(dim=1).numpy()
        ends = np.cumsum(counts)
        tokens = np.zeros((int(ends[-1]), self.k), dtype=self._wide)
        log_p = np.zeros((int(ends[-1]), self.k + 1), dtype=np.float16)
        device = next(model.parameters()).device
        lengths = attention.sum(dim=1).tolist()
        for some in in_length_order(lengths, BATCH):
            longest = max(lengths[i] for i in some)
            ids, mask, places = (x[some, :longest].to(device) for x in (shown, attention, chosen))
            with torch.inference_mode(), autocast_of(precision, device):
                logits = model.token_logits(model(ids, mask).last_hidden_state[places])
            found = _spans(ends[some] - counts[some], ends[some])
            tokens[found], log_p[found] = most_probable(logits, self.k, self._kept.temperature)
        before = int(self._array("ends", np.int64)[done - 1]) if done else 0
        parts = {
            "shown": shown[there].numpy().astype(self._wide),
            "chosen": chosen[there].numpy(),
            "tokens": tokens,
            "log_p": log_p,
            "ends": before + ends.astype(np.int64),
        }
        append(self._folder, parts)

    @property
    def _wide(self) -> type[np.generic]:
        return np.uint16 if self.text.vocabulary <= 1 << 16 else np.uint32

    def _map(self) -> None:
        """Map the complete parts."""
        lines = self.text.lines
        ends = self._array("ends", np.int64)
        variants, rows = divmod(len(ends), len(lines))
        rows -= rows % PART
        self.ends: Ints = ends[: variants * len(lines) + rows]
        read = variants * len(lines.tokens) + int(lines.starts[rows])
        answers = int(self.ends[-1]) if len(self.ends) else 0
        self.shown: NDArray[Any] = self._array("shown", self._wide)[:read]
        self.chosen: NDArray[np.bool_] = self._array("chosen", np.bool_)[:read]
        self.tokens: NDArray[Any] = self._array("tokens", self._wide, self.k)[:answers]
        self.log_p: NDArray[np.float16] = self._array("log_p", np.float16, self.k + 1)[:answers]

    def _array(self, name: str, kind: type[np.generic], *columns: int) -> NDArray[Any]:
        return mapped(self._folder / name, kind, *columns)


def most_probable(logits: Tensor, k: int, temperature: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """The k most probable tokens of logits [n, vocabulary]; log probabilities, theirs and the rest's, [n, k + 1]."""
    log_p = (logits.float() / temperature).log_softmax(dim=-1)
    top, tokens = log_p.topk(k, dim=-1)
    rest = log_p.scatter(-1, tokens, -torch.inf).logsumexp(dim=-1, keepdim=True)
    return tokens.cpu().numpy(), torch.cat([top, rest], dim=-1).cpu().numpy()


def _spans(starts: Any, ends: Any) -> Ints:
    """The numbers from each start to below its end, one after the other."""
    counts = np.asarray(ends) - np.asarray(starts)
    before = np.cumsum(counts) - counts
    found: Ints = np.arange(counts.sum()) + np.repeat(np.asarray(starts) - before, counts)
    return found


def _seed_of(variant: int, row: int) -> int:
    return int(np.random.SeedSequence([MASK_SEED, variant, row]).generate_state(1)[0])
