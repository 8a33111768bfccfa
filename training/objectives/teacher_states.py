"""Hidden states of a fine-tuned teacher, aligned with a student's tokens.

The teacher runs in memory. What it has read is kept, in float16, up to a limit, so that small data is read once for
each variant of a text; of what does not fit, the teacher reads each batch again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.student.tokenization import TextEncoder
from training.models.batches import Example, collate
from training.models.checkpoint import Checkpoint, load_checkpoint, with_heads
from training.models.devices import autocast_of, processes
from training.models.errors import CheckpointError
from training.objectives.intermediate import Shape
from training.objectives.task_distillation import Word, pair_words
from training.text.tokenizer import special_ids

LIMIT = 1 << 30  # bytes of states that are kept

States = NDArray[np.float16]


@dataclass(frozen=True)
class Aligned:
    """What student and teacher compare: a text's first token, then the words that both have read.

    `positions` [texts, words] are the places among the student's tokens, `mask` [texts, words] is 0 for padding, and
    `states` are those of the teacher by layer, the embeddings first, each [texts, words, width].
    """

    positions: Tensor
    mask: Tensor
    states: tuple[Tensor, ...]

    def chosen(self, hidden: Sequence[Tensor]) -> list[Tensor]:
        """A student's hidden states [texts, tokens, width] at the positions, by layer."""
        rows = torch.arange(len(self.positions), device=self.positions.device)[:, None]
        return [states[rows, self.positions].float() for states in hidden]


class TeacherStates:
    """The hidden states of one teacher for texts."""

    def __init__(self, teacher: Checkpoint, limit: int = LIMIT) -> None:
        """States up to `limit` bytes are kept."""
        self._teacher, self._left = teacher, limit
        self._kept: dict[str, tuple[list[Word], States]] = {}

    @classmethod
    def of_folder(cls, folder: Path, limit: int = LIMIT) -> TeacherStates:
        """The states of a fine-tuned checkpoint, or of an exported student, whose weights are read from its graph.

        Raises CheckpointError: the folder is neither, or its graph gives no hidden states.
        """
        try:
            teacher = with_heads(load_checkpoint(str(folder), processes().device), folder)
        except CheckpointError as error:
            allowed = "a checkpoint of training.finetune, or a student that this project has exported"
            needs = f"--hidden-loss needs the teacher's hidden states; allowed: {allowed}"
            raise CheckpointError(f"{needs}; {error}") from error
        return cls(teacher, limit)

    @property
    def shape(self) -> Shape:
        """Layers and width of the teacher."""
        config = self._teacher.model.config
        return Shape(config.num_hidden_layers, config.hidden_size)

    def aligned(self, encoder: TextEncoder, texts: Sequence[str]) -> Aligned:
        """The states for a student's texts, on the teacher's device; `encoder` is the student's."""
        read = self._read(texts)
        ours, theirs = [], []
        for text in texts:
            encoded, (words, _) = encoder.encode(text), read[text]
            pairs = pair_words(encoded.words, words)
            both = np.flatnonzero(pairs >= 0)
            ours.append([0, *(encoded.first_tokens[i] for i in both)])
            theirs.append([0, *(pairs[both] + 1)])
        longest = max(map(len, ours))
        layers, width = self.shape.layers + 1, self.shape.width
        positions = torch.zeros(len(texts), longest, dtype=torch.long)
        mask = torch.zeros(len(texts), longest)
        states = np.zeros((layers, len(texts), longest, width), dtype=np.float16)
        for row, text in enumerate(texts):
            count = len(ours[row])
            positions[row, :count] = torch.tensor(ours[row])
            mask[row, :count] = 1
            states[:, row, :count] = read[text][1][:, theirs[row]]
        device = self._teacher.model.device
        taught = torch.from_numpy(states).to(device).float()
        return Aligned(positions.to(device), mask.to(device), tuple(taught))

    def _read(self, texts: Sequence[str]) -> dict[str, tuple[list[Word], States]]:
        """Words and states [layers + 1, 1 + words, width] of each text: of its first token, and of each word's."""
        found = {text: self._kept[text] for text in texts if text in self._kept}
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if not missing:
            return found
        teacher = self._teacher
        encoded = [teacher.encoder.encode(text) for text in missing]
        batch = collate([Example.of_text(e) for e in encoded], special_ids(teacher.encoder.tokenizer).pad)
        batch = batch.to(teacher.model.device)
        with torch.inference_mode(), autocast_of("auto", teacher.model.device):
            hidden = teacher.model(batch.input_ids, batch.attention_mask, all_layers=True).hidden_states
        stacked = torch.stack(hidden).half().cpu().numpy()
        for row, (text, one) in enumerate(zip(missing, encoded, strict=True)):
            states = stacked[:, row, [0, *one.first_tokens]]
            found[text] = list(one.words), states
            if states.nbytes <= self._left:
                self._left -= states.nbytes
                self._kept[text] = found[text]
        return found
