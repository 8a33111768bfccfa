"""Vocabulary trimming: a student of some locales, with the tokens that their texts need.

A unigram tokenizer chooses the most probable segmentation of a word. If all tokens of a text are kept, its segmentation
stays the same, and so do the fp32 logits, bit for bit. Other texts get another segmentation, mostly with more tokens.
All single characters are kept, so that no text becomes unknown.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer

from export.data import by_locale
from export.folder import ExportError
from service.student.tokenization import TextEncoder
from training.data.utterances import Utterance
from training.models.checkpoint import Checkpoint
from training.models.prediction import answers_of_model
from training.models.student import StudentModel
from training.text.tokenizer import special_ids

log = logging.getLogger(__name__)

MIN_SAME_ANSWERS = 99.0  # percent of a locale's evaluated texts whose answers must not change
CHUNK = 10_000  # texts tokenised at a time


class Trimmed(NamedTuple):
    """A checkpoint with fewer tokens; `kept` are the old ids of its tokens, in the order of the new ids."""

    checkpoint: Checkpoint
    kept: list[int]


def chosen_locales(flag: str | None, known: Sequence[str]) -> list[str]:
    """The locales to serve, in the student's order: those of the flag, or all.

    Raises:
        ExportError: the student does not have one of them.
    """
    wanted = set(known) if flag is None else {part.strip() for part in flag.split(",")}
    if unknown := wanted - set(known):
        raise ExportError(f"--locales: {', '.join(sorted(unknown))}; allowed: {', '.join(known)}")
    return [locale for locale in known if locale in wanted]


def trim(checkpoint: Checkpoint, texts: Iterable[str], locales: Sequence[str]) -> Trimmed:
    """A copy of the checkpoint for `locales`, with the tokens that `needed` finds in `texts`.

    Raises:
        ExportError: the tokenizer is not of the kind that this project trains.
    """
    tokenizer, model = checkpoint.encoder.tokenizer, checkpoint.model
    kept = needed(tokenizer, texts)
    encoder = TextEncoder(with_tokens(tokenizer, kept), checkpoint.encoder.max_length)
    training = {**checkpoint.training, "locales": list(locales)}
    return Trimmed(Checkpoint(with_rows(model, kept), encoder, checkpoint.labels, training), kept)


def needed(tokenizer: Tokenizer, texts: Iterable[str]) -> list[int]:
    """The sorted ids of the tokens of `texts`, and of those that every text may need.

    The latter are the special tokens, all single characters, so that none becomes unknown, and the least probable
    token, on which the score of an unknown character depends.
    """
    scored = _content(tokenizer)["model"]["vocab"]
    found = {
        *special_ids(tokenizer).protected,
        *tokenizer.get_added_tokens_decoder(),
        *(number for number, (token, _) in enumerate(scored) if len(token) == 1),
        min(range(len(scored)), key=lambda number: scored[number][1]),
    }
    rest = iter(texts)
    while chunk := list(islice(rest, CHUNK)):
        for encoding in tokenizer.encode_batch_fast(chunk):
            found.update(encoding.ids)
    return sorted(found)


def with_tokens(tokenizer: Tokenizer, kept: Sequence[int]) -> Tokenizer:
    """The tokenizer with the tokens `kept` only, renumbered in that order.

    Raises:
        ExportError: a part of the tokenizer refers to tokens in an unsupported way.
    """
    content = _content(tokenizer)
    numbers = {old: new for new, old in enumerate(kept)}
    model, after = content["model"], content["post_processor"]
    if after is not None and after["type"] != "TemplateProcessing":
        raise ExportError(f"--locales: a tokenizer with {after['type']} can't be trimmed, only TemplateProcessing")
    if kept[-1] >= len(model["vocab"]):
        raise ExportError("--locales: a tokenizer with tokens outside its model can't be trimmed")
    model["vocab"] = [model["vocab"][old] for old in kept]
    model["unk_id"] = numbers.get(model["unk_id"])
    for added in content["added_tokens"]:
        added["id"] = numbers[added["id"]]
    for special in after["special_tokens"].values() if after else ():
        special["ids"] = [numbers[old] for old in special["ids"]]
    smaller = Tokenizer.from_str(json.dumps(content))
    if [tokenizer.id_to_token(old) for old in kept] != [smaller.id_to_token(new) for new in range(len(kept))]:
        raise ExportError("--locales: the trimmed tokenizer does not number its tokens in the order of `kept`")
    return smaller


def with_rows(model: StudentModel, kept: Sequence[int]) -> StudentModel:
    """A copy of a student in evaluation mode, with the rows `kept` of its embeddings and no masked-language head."""
    config = copy.deepcopy(model.config)
    config.vocab_size, config.masked = len(kept), False
    smaller: StudentModel = type(model)(config)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("masked.")}
    weights["token_embeddings.weight"] = weights["token_embeddings.weight"][torch.tensor(list(kept))]
    smaller.load_state_dict(weights)
    smaller.eval()
    return smaller


def compare(whole: Checkpoint, trimmed: Trimmed, utterances: Sequence[Utterance]) -> dict[str, Any]:
    """The effect of trimming, for the manifest: numbers of tokens, unchanged texts and answers in percent by locale.

    Answers are those of PyTorch in fp32. Only texts whose tokens changed are compared; the others can't differ.

    Raises:
        ExportError: in a locale, fewer than `MIN_SAME_ANSWERS` percent of the answers are unchanged.
    """
    old, new = whole.encoder.encode_whole, trimmed.checkpoint.encoder.encode_whole
    # truncated like the student's input
    changed = [u for u in utterances if [trimmed.kept[number] for number in new(u.text).ids] != old(u.text).ids]
    before, after = (answers_of_model(x.model, x.encoder, x.labels, changed) for x in (whole, trimmed.checkpoint))
    other = [u for u, one, two in zip(changed, before, after, strict=True) if one != two]
    same_pieces, same_answers = (
        {
            locale: round(100 * (1 - sum(u.locale == locale for u in different) / len(found)), 2)
            for locale, found in by_locale(utterances).items()
        }
        for different in (changed, other)
    )
    count_before = whole.encoder.tokenizer.get_vocab_size()
    kept = f"{len(trimmed.kept)} of {count_before} tokens"
    shares = ", ".join(f"{x} {same:.1f} / {same_answers[x]:.1f} %" for x, same in same_pieces.items())
    log.info("%s kept; texts with the same tokens / the same answer: %s", kept, shares)
    locale, worst = min(same_answers.items(), key=lambda entry: entry[1])
    if worst < MIN_SAME_ANSWERS:
        raise ExportError(
            f"--locales: with {kept} only {worst:.1f} % of the answers in {locale} are unchanged; allowed: at least "
            f"{MIN_SAME_ANSWERS:g} %. Add text of this locale with --trim-text"
        )
    return {
        "locales_before": whole.training["locales"],
        "pieces": len(trimmed.kept),
        "pieces_before": count_before,
        "same_pieces": same_pieces,
        "same_answers": same_answers,
    }


def _content(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of a tokenizer file. Raises ExportError if its model is not a unigram model without byte fallback."""
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    if content["model"]["type"] != "Unigram" or content["model"].get("byte_fallback"):
        raise ExportError("--locales: only unigram tokenizers without byte fallback can be trimmed")
    return content
