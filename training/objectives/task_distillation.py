"""Task distillation: a student imitates fine-tuned teachers on plain text (Hinton et al. 2015).

Slots are aligned by word, through character offsets, so that teacher and student may have different tokenizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from service.student.manifest import MANIFEST_FILE, Labels, StudentError
from service.student.student import Student
from service.student.tokenization import Encoded, TextEncoder
from training.models.batches import Batch, Rows
from training.models.checkpoint import Checkpoint, load_checkpoint, with_heads
from training.models.devices import processes
from training.models.errors import CheckpointError
from training.models.prediction import logits_of_model
from training.models.student import StudentOutput

Word = tuple[int, int]
Teacher = Checkpoint | Student


class TeacherTargets:
    """The teachers' mean probabilities at a temperature, for each text.

    `domain` [texts, domains], `intent` [texts, intents], and `slots`, one array [student's words, tags] a text, with
    zeros for a word that no teacher has read; float16. `paired` counts the words that a teacher has read. A head that
    the student lacks is left out.
    """

    def __init__(
        self, teachers: Sequence[Teacher], labels: Labels, texts: list[str], encoder: TextEncoder, temperature: float
    ) -> None:
        """Compute the targets of texts; `encoder` is the student's.

        Raises CheckpointError: a teacher has other labels than the student.
        """
        self.temperature = temperature
        self._labels = labels
        self.domain = np.zeros((len(texts), len(labels.domain)), dtype=np.float16)
        self.intent = np.zeros((len(texts), len(labels.intent)), dtype=np.float16)
        words = [encoder.encode(text).words for text in texts]
        self.slots = [np.zeros((len(found), len(labels.slots)), dtype=np.float16) for found in words]
        for teacher in teachers:
            has = teacher.manifest.labels if isinstance(teacher, Student) else teacher.labels
            different = [head for head in labels.heads if getattr(has, head) != getattr(labels, head)]
            if different:
                raise CheckpointError(f"a teacher has other labels for {', '.join(different)} than the training data")
            self._add(teacher, texts, words, 1 / len(teachers))
        for soft in self.slots:  # where some of the teachers have read a word
            soft /= np.maximum(soft.sum(axis=1, keepdims=True), 1e-3)
        self.paired = np.array([int(soft.any(axis=1).sum()) for soft in self.slots])

    def _add(self, teacher: Teacher, texts: Sequence[str], words: Sequence[Sequence[Word]], share: float) -> None:
        encoded = [teacher.encoder.encode(text) for text in texts]
        hidden = not processes().is_main_process
        with tqdm(total=len(texts), desc="asking a teacher", unit="text", mininterval=5, disable=hidden) as bar:
            for rows, logits in _logits_of(teacher, encoded):
                soft = {head: (logits[head].float() / self.temperature).softmax(-1) for head in self._labels.heads}
                found = {head: values.cpu().numpy() for head, values in soft.items()}
                for head in [head for head in ("domain", "intent") if head in found]:
                    getattr(self, head)[rows] += share * found[head]
                for row, i in enumerate(rows if "slots" in found else ()):
                    by_word = self._by_word(words[i], encoded[i], found["slots"][row])
                    self.slots[i] += (share * by_word).astype(np.float16)
                bar.update(len(rows))

    def _by_word(self, words: Sequence[Word], encoded: Encoded, soft: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probabilities [words, tags] at the student's words, from the teacher's [tokens, tags].

        Where several words are one word to the teacher, only the first may begin a slot; the others continue it.
        """
        pairs = pair_words(words, encoded.words)
        found = np.zeros((len(words), soft.shape[1]), dtype=np.float32)
        known = pairs >= 0
        if known.any():
            found[known] = soft[np.array(encoded.first_tokens)[pairs[known]]]
        later = np.flatnonzero(known[1:] & (pairs[1:] == pairs[:-1])) + 1
        if len(later):
            tags = {name: i for i, name in enumerate(self._labels.slots)}
            for begin, i in tags.items():
                inside = tags.get(f"I-{begin[2:]}") if begin.startswith("B-") else None
                if inside is not None:
                    found[later, inside] += found[later, i]
                    found[later, i] = 0
        return found


def open_teacher(folder: Path, device: torch.device) -> Teacher:
    """Open a fine-tuned checkpoint, or an exported student, which answers as in the service.

    Raises CheckpointError: the folder is neither, or can't be used.
    """
    if (folder / MANIFEST_FILE).is_file():
        try:
            return Student.load(folder)
        except StudentError as error:
            raise CheckpointError(str(error)) from error
    return with_heads(load_checkpoint(str(folder), device), folder)


def _logits_of(teacher: Teacher, encoded: Sequence[Encoded]) -> Iterator[tuple[Rows, dict[str, Tensor]]]:
    """Rows of the texts and their logits by head; a student answers one text at a time, as in the service."""
    if isinstance(teacher, Student):
        for i, text in enumerate(encoded):
            yield np.array([i]), {head: torch.from_numpy(x) for head, x in teacher.logits(text).items()}
    else:
        for rows, logits in logits_of_model(teacher.model, teacher.encoder, encoded):
            yield rows, {head: x for head, x in logits.items() if x is not None}


def pair_words(ours: Sequence[Word], theirs: Sequence[Word]) -> Rows:
    """For each of our words the first of theirs that shares a character with it, -1 where none does.

    That is the one that covers our word's first character, if there is one. Words are (start, end), in order.
    """
    pairs = np.full(len(ours), -1, dtype=np.int64)
    place = 0
    for i, (start, end) in enumerate(ours):
        while place < len(theirs) and theirs[place][1] <= start:
            place += 1
        if place < len(theirs) and theirs[place][0] < end:
            pairs[i] = place
    return pairs


def distillation_loss(output: StudentOutput, batch: Batch, targets: TeacherTargets, slot_weight: float) -> Tensor:
    """T² times the cross entropy between the teachers' soft targets and the student, heads summed; a scalar.

    Each is the mean over its targets. Only texts that the teachers read unchanged count (`batch.rows` >= 0), and of
    their words those that a teacher has read; 0 where there is none.
    """
    plain, whole = np.flatnonzero(batch.rows >= 0), batch.whole
    rows, all_rows = batch.rows[plain], whole.rows[whole.rows >= 0]
    loss = torch.zeros((), device=batch.input_ids.device)
    if not len(rows):
        return loss
    chosen = torch.from_numpy(plain).to(loss.device)
    for head, logits in (("domain", output.domain_logits), ("intent", output.intent_logits)):
        if logits is not None:
            total = _soft_cross_entropy(logits[chosen], getattr(targets, head)[rows], targets.temperature)
            loss = loss + whole.split.scale(len(all_rows)) * total
    if output.slot_logits is not None:
        soft = np.concatenate([targets.slots[i] for i in rows])
        total = _soft_cross_entropy(output.slot_logits[chosen][batch.first[chosen]], soft, targets.temperature)
        loss = loss + slot_weight * whole.split.scale(int(targets.paired[all_rows].sum())) * total
    return loss


def _soft_cross_entropy(logits: Tensor, soft: NDArray[np.float16], temperature: float) -> Tensor:
    """T² times the summed cross entropy; logits and soft are [items, classes], and items of zeros add nothing."""
    target = torch.from_numpy(soft.astype(np.float32)).to(logits.device)
    return temperature**2 * functional.cross_entropy(logits.float() / temperature, target, reduction="sum")
