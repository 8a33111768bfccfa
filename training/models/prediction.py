"""Answers of a checkpoint or of a student folder to many utterances, for `training.evaluation.scoring`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from service.student.decoding import decode_slots
from service.student.manifest import Labels
from service.student.predictor import Predictor
from service.student.shipped import student_folder
from service.student.student import OUTPUT_OF_HEAD, Student
from service.student.tokenization import Encoded, TextEncoder
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import PredictedLabels
from training.models.batches import Example, Rows, collate, in_length_order
from training.models.checkpoint import load_checkpoint, with_heads
from training.models.student import StudentModel
from training.text.tokenizer import special_ids


def logits_of_model(
    model: StudentModel, encoder: TextEncoder, encoded: Sequence[Encoded], batch_size: int = 256
) -> Iterator[tuple[Rows, dict[str, Tensor | None]]]:
    """Rows of texts and their logits by head, batch by batch in order of length, in evaluation mode."""
    pad, was_training = special_ids(encoder.tokenizer).pad, model.training
    model.eval()
    for rows in in_length_order([len(e.ids) for e in encoded], batch_size):
        batch = collate([Example.of_text(encoded[i]) for i in rows], pad).to(model.device)
        with torch.inference_mode():
            output = model(batch.input_ids, batch.attention_mask)
        yield rows, {head: getattr(output, name) for head, name in OUTPUT_OF_HEAD.items()}
    model.train(was_training)


def answers_of_model(
    model: StudentModel, encoder: TextEncoder, labels: Labels, utterances: Sequence[Utterance]
) -> list[PredictedLabels]:
    """Answers of a PyTorch student, in the order of the utterances."""
    encoded = [encoder.encode(u.text) for u in utterances]
    answers: list[PredictedLabels] = [PredictedLabels()] * len(utterances)
    for rows, logits in logits_of_model(model, encoder, encoded):
        found = {head: None if x is None else x.float().cpu().numpy() for head, x in logits.items()}
        domain, intent, slots = (found[head] for head in ("domain", "intent", "slots"))
        for row, i in enumerate(rows):
            spans = None
            if slots is not None:
                words, first = encoded[i].words, encoded[i].first_tokens
                decoded = decode_slots(utterances[i].text, words, slots[row, first], labels.slots) if words else []
                spans = tuple(Slot(s.name, s.start, s.end) for s in decoded)
            domain_name = None if domain is None else labels.domain[int(np.argmax(domain[row]))]
            intent_name = None if intent is None else labels.intent[int(np.argmax(intent[row]))]
            answers[i] = PredictedLabels(domain_name, intent_name, spans)
    return answers


def answers_of_student(student: Predictor, utterances: Sequence[Utterance]) -> list[PredictedLabels]:
    """Answers of an exported graph, one sentence at a time and without padding, as in the service."""
    answers = []
    for utterance in tqdm(utterances, desc="answering", unit="utt", leave=False, disable=None):
        found = student.predict(utterance.text)
        domain, intent = (ranking[0].name if ranking else None for ranking in (found.domain, found.intent))
        spans = None if found.slots is None else tuple(Slot(s.name, s.start, s.end) for s in found.slots)
        answers.append(PredictedLabels(domain, intent, spans))
    return answers


def open_model(
    ckpt: Path | None, student: str | None, device: torch.device
) -> tuple[list[str], Callable[[Sequence[Utterance]], list[PredictedLabels]]]:
    """The locales that a checkpoint, or else a student, serves, and a function from utterances to its answers.

    Raises CheckpointError, StudentError: it can't be used.
    """
    if ckpt is None:
        opened = Student.load(student_folder(student or ""))
        return list(opened.manifest.locales), partial(answers_of_student, opened)
    checkpoint = with_heads(load_checkpoint(ckpt, device), ckpt)
    answers = partial(answers_of_model, checkpoint.model, checkpoint.encoder, checkpoint.labels)
    return list(checkpoint.training["locales"]), answers
