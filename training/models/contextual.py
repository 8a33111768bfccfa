"""Contextual augmentation: words outside slots become others that a masked language model expects there.

As in TinyBERT's data augmentation (Jiao et al. 2020, section 4.1) and Kobayashi 2018. The model is an encoder of
`training.pretrain`, or a Hugging Face one with a masked-language head.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np
import torch

from training.data.augmentation import words_outside_slots
from training.data.rewriting import edit
from training.data.utterances import Utterance
from training.models.batches import Example, collate, in_length_order
from training.models.checkpoint import Checkpoint, load_checkpoint
from training.models.devices import autocast_of
from training.models.errors import CheckpointError
from training.text.tokenizer import special_ids

BATCH = 128
EXPECTED = 10  # the most probable words, of which one is drawn by its probability
BEGINNINGS = "▁Ġ"  # marks of tokens that begin a word
WORD = re.compile(r"[^\W\d_]+")


class ContextualWords:
    """A rewriter of `training.data.policy`, with one masked language model."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Find the words among the tokens. Raises CheckpointError: there is no masked-language head, or no word."""
        if not checkpoint.model.config.masked:
            allowed = "an encoder of training.pretrain, or a Hugging Face one that has it"
            raise CheckpointError(f"has no masked-language head; allowed: {allowed}")
        self._model, self._encoder = checkpoint.model.eval(), checkpoint.encoder
        self._tokenizer = checkpoint.encoder.tokenizer
        self._special = special_ids(self._tokenizer)
        self._mask = self._tokenizer.id_to_token(self._special.mask)
        self._words = self._whole_words()
        if not self._words:
            raise CheckpointError("its tokenizer has no token that is a word")
        self._ids = torch.tensor(list(self._words), device=self._model.device)

    @classmethod
    def of(cls, source: str, device: str | torch.device = "cpu") -> ContextualWords:
        """The rewriter of a checkpoint or a Hugging Face encoder. Raises CheckpointError: it can't be used."""
        try:
            return cls(load_checkpoint(source, device))
        except CheckpointError as error:
            raise CheckpointError(f"--masked-model {source}: {error}") from error

    def __call__(self, utterances: Sequence[Utterance], strength: float, rng: random.Random) -> list[Utterance]:
        """Other words in place of a share (`strength`) of each utterance's words outside slots, at least one."""
        found = list(utterances)
        chosen = [self._chosen(utterance, strength, rng) for utterance in utterances]
        encoded = [self._masked(u, words) for u, words in zip(utterances, chosen, strict=True)]
        rows = [i for i, ids in enumerate(encoded) if chosen[i] and len(ids) <= self._encoder.max_length]
        for part in in_length_order([len(encoded[i]) for i in rows], BATCH):
            batch = [rows[i] for i in part]
            for i, words in zip(batch, self._expected([encoded[i] for i in batch], rng), strict=True):
                if len(words) == len(chosen[i]):
                    spans = zip(chosen[i], words, strict=True)
                    found[i] = edit(utterances[i], [(*span, word) for span, word in spans])
        return found

    def _whole_words(self) -> dict[int, str]:
        """The tokens that are a word by themselves, as text."""
        found = {}
        protected = set(self._special.protected)
        ids = [i for i in range(self._tokenizer.get_vocab_size()) if i not in protected]
        texts = [self._tokenizer.id_to_token(i).lstrip(BEGINNINGS) for i in ids]
        alone = [(i, text) for i, text in zip(ids, texts, strict=True) if WORD.fullmatch(text)]
        for (i, text), encoding in zip(alone, self._tokenizer.encode_batch([text for _, text in alone]), strict=True):
            if [x for x in encoding.ids if x not in protected] == [i]:
                found[i] = text
        return found

    def _chosen(self, utterance: Utterance, strength: float, rng: random.Random) -> list[tuple[int, int]]:
        spans = [span for span in words_outside_slots(utterance) if WORD.fullmatch(utterance.text, *span)]
        return sorted(rng.sample(spans, max(1, round(strength * len(spans))))) if spans else []

    def _masked(self, utterance: Utterance, words: Sequence[tuple[int, int]]) -> list[int]:
        """The token ids of an utterance with a mask in place of each of the words."""
        text, position = "", 0
        for start, end in words:
            text += utterance.text[position:start] + self._mask
            position = end
        ids: list[int] = self._tokenizer.encode(text + utterance.text[position:]).ids
        return ids

    def _expected(self, texts: Sequence[list[int]], rng: random.Random) -> list[list[str]]:
        """For each text a word for each of its masks, drawn from the most probable ones."""
        batch = collate([Example(ids, -100, -100, [-100] * len(ids)) for ids in texts], self._special.pad)
        batch = batch.to(self._model.device)
        masks = batch.input_ids == self._special.mask
        with torch.inference_mode(), autocast_of("auto", self._model.device):
            hidden = self._model(batch.input_ids, batch.attention_mask).last_hidden_state[masks]
            logits = self._model.token_logits(hidden)[:, self._ids].float()
        best = logits.topk(min(EXPECTED, len(self._ids)))
        weights = best.values.softmax(dim=-1).cpu().numpy().astype(np.float64)
        names, places = list(self._words.values()), best.indices.cpu().numpy()
        drawn = [
            names[rng.choices(row, share)[0]] for row, share in zip(places.tolist(), weights.tolist(), strict=True)
        ]
        counts = masks.sum(dim=1).tolist()
        ends = np.cumsum(counts)
        return [drawn[end - count : end] for count, end in zip(counts, ends.tolist(), strict=True)]
