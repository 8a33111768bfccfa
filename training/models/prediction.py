"""Answers of a checkpoint or of a student folder to many utterances, in the form that `scoring` compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from service.student.decoding import decode_slots
from service.student.manifest import Labels
from service.student.predictor import Predictor
from service.student.shipped import student_folder
from service.student.student import Student
from service.student.tokenization import TextEncoder
from training.data.utterances import Slot, Utterance
from training.evaluation.scoring import Answer
from training.models.batches import Example, collate, in_length_order
from training.models.checkpoint import load_checkpoint, with_heads
from training.models.student import StudentModel
from training.text.tokenizer import special_ids


def answers_of_model(
    model: StudentModel,
    encoder: TextEncoder,
    labels: Labels,
    utterances: Sequence[Utterance],
    batch_size: int = 256,
) -> list[Answer]:
    """Answers of a PyTorch student, in the order of the utterances. Runs in evaluation mode and restores the mode."""
    encoded = [encoder.encode(u.text) for u in utterances]
    answers: list[Answer] = [Answer()] * len(utterances)
    pad_id = special_ids(encoder.tokenizer).pad
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for rows in in_length_order([len(e.ids) for e in encoded], batch_size):
            batch = collate([Example.of_text(encoded[i]) for i in rows], pad_id).to(model.device)
            output = model(batch.input_ids, batch.attention_mask)
            heads = (output.domain_logits, output.intent_logits, output.slot_logits)
            domain, intent, slots = (None if x is None else x.float().cpu().numpy() for x in heads)
            for row, i in enumerate(rows):
                text, words, first = utterances[i].text, encoded[i].words, encoded[i].first_pieces
                found = None
                if slots is not None:
                    spans = decode_slots(text, words, slots[row, first], labels.slots) if words else []
                    found = tuple(Slot(s.name, s.start, s.end) for s in spans)
                answers[i] = Answer(
                    None if domain is None else labels.domain[int(np.argmax(domain[row]))],
                    None if intent is None else labels.intent[int(np.argmax(intent[row]))],
                    found,
                )
    model.train(was_training)
    return answers


def answers_of_student(student: Predictor, utterances: Sequence[Utterance]) -> list[Answer]:
    """Answers of an exported graph, one sentence at a time and without padding, as the service runs it."""
    answers = []
    for utterance in tqdm(utterances, desc="answering", unit="utt", leave=False, disable=None):
        found = student.predict(utterance.text)
        answers.append(
            Answer(
                found.domain[0].name if found.domain else None,
                found.intent[0].name if found.intent else None,
                None if found.slots is None else tuple(Slot(s.name, s.start, s.end) for s in found.slots),
            )
        )
    return answers


def open_model(
    ckpt: Path | None, student: str | None, device: torch.device
) -> tuple[list[str], Callable[[Sequence[Utterance]], list[Answer]]]:
    """The locales that a checkpoint, or else a student, serves, and a function from utterances to its answers.

    Raises CheckpointError, StudentError: it can't be used.
    """
    if ckpt is None:
        opened = Student.load(student_folder(student or ""))
        return list(opened.manifest.locales), partial(answers_of_student, opened)
    checkpoint = with_heads(load_checkpoint(ckpt, device), ckpt)
    answers = partial(answers_of_model, checkpoint.model, checkpoint.encoder, checkpoint.labels)
    return list(checkpoint.training["locales"]), answers
