"""Task distillation: a student imitates fine-tuned teachers on the training utterances (Hinton et al. 2015).

Slots are aligned by word, so teachers and student may have different tokenizers as long as they split words alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from service.manifest import Labels
from training.checkpoint import Checkpoint, CheckpointError
from training.encoding import IGNORED, Batch, Example, collate, in_length_order
from training.modeling import StudentOutput
from training.records import Utterance
from training.tokenizer import PAD


class TeacherTargets:
    """The teachers' mean probabilities at a temperature, for each training utterance as it stands in the data.

    `domain` [utterances, domains], `intent` [utterances, intents], and `slots`, one array [words, tags] an utterance;
    float16. A head that the student lacks is left out.
    """

    def __init__(
        self, teachers: Sequence[Checkpoint], labels: Labels, utterances: Sequence[Utterance], temperature: float
    ) -> None:
        """Ask the teachers. Raises CheckpointError when one has other labels than the student."""
        self.temperature = temperature
        self.heads = labels.heads
        self.domain = np.zeros((len(utterances), len(labels.domain)), dtype=np.float16)
        self.intent = np.zeros((len(utterances), len(labels.intent)), dtype=np.float16)
        self.slots: list[NDArray[np.float16]] = []
        for teacher in teachers:
            different = [head for head in labels.heads if getattr(teacher.labels, head) != getattr(labels, head)]
            if different:
                raise CheckpointError(f"a teacher has other labels for {', '.join(different)} than the training data")
            self._add(teacher, utterances, 1 / len(teachers))

    def _add(self, teacher: Checkpoint, utterances: Sequence[Utterance], share: float) -> None:
        encoded = [teacher.encoder.encode(u.text) for u in utterances]
        if not self.slots:
            self.slots = [np.zeros((len(e.words), len(teacher.labels.slots)), dtype=np.float16) for e in encoded]
        pad = teacher.encoder.tokenizer.token_to_id(PAD)
        batches = list(in_length_order([len(e.ids) for e in encoded], 256))
        with torch.inference_mode():
            for rows in tqdm(batches, desc="asking a teacher", unit="batch", mininterval=5):
                examples = [Example(encoded[i].ids, IGNORED, IGNORED, [IGNORED] * len(encoded[i].ids)) for i in rows]
                batch = collate(examples, pad)
                output = teacher.model(batch.input_ids, batch.attention_mask)
                for head, logits in (("domain", output.domain_logits), ("intent", output.intent_logits)):
                    if head in self.heads:
                        getattr(self, head)[rows] += share * self._soft(logits)
                if "slots" in self.heads:
                    soft = self._soft(output.slot_logits)
                    for row, i in enumerate(rows):
                        words = min(len(self.slots[i]), len(encoded[i].words))  # fewer where a long text was cut
                        self.slots[i] = self.slots[i][:words]
                        self.slots[i] += (share * soft[row, encoded[i].first_pieces[:words]]).astype(np.float16)

    def _soft(self, logits: Tensor) -> NDArray[np.float32]:
        soft: NDArray[np.float32] = (logits.float() / self.temperature).softmax(-1).numpy()
        return soft


def distillation_loss(output: StudentOutput, batch: Batch, targets: TeacherTargets, slot_weight: float) -> Tensor:
    """T² times the cross entropy between the teachers' soft targets and the student, heads summed; a scalar.

    Only utterances that stand in the batch as they stand in the data count (`batch.rows` >= 0), 0 where there is none.
    """
    plain = np.flatnonzero(batch.rows >= 0)
    rows = batch.rows[plain]
    loss = torch.zeros((), device=batch.input_ids.device)
    if not len(rows):
        return loss
    chosen = torch.from_numpy(plain).to(loss.device)
    for head, logits in (("domain", output.domain_logits), ("intent", output.intent_logits)):
        if logits is not None:
            loss = loss + _soft_cross_entropy(logits[chosen], getattr(targets, head)[rows], targets.temperature)
    if output.slot_logits is not None:
        words = batch.slots[chosen] != IGNORED
        soft = np.concatenate([targets.slots[i] for i in rows])
        if int(words.sum()) == len(soft):  # else a text was cut, or a tag is unknown: the words don't pair up
            loss = loss + slot_weight * _soft_cross_entropy(
                output.slot_logits[chosen][words], soft, targets.temperature
            )
    return loss


def _soft_cross_entropy(logits: Tensor, soft: NDArray[np.float16], temperature: float) -> Tensor:
    """T² times the mean cross entropy; logits and soft are [items, classes]."""
    target = torch.from_numpy(soft.astype(np.float32)).to(logits.device)
    return temperature**2 * functional.cross_entropy(logits.float() / temperature, target)
