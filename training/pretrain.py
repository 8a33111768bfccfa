"""Pretrain an encoder by masked language modelling on plain text.

    python -m training.pretrain --corpus DIR_OR_FILES --data MASSIVE --locales de-DE,en-US --size s --out CKPT

The tokenizer is trained on the labelled data's training texts and on lines of the corpus; the encoder on all of both.
`python -m training.finetune --init CKPT` goes on from there. Progress goes to standard error; the last line of
standard output is one JSON object. `--resume` continues an interrupted run exactly.
"""

from __future__ import annotations

import json
import logging
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from service.manifest import Labels
from training import datasets
from training.augmentation import augment
from training.checkpoint import RESUME_FILE, save_checkpoint
from training.corpus import read_lines
from training.encoding import length_buckets
from training.loop import Loop, autocast_of, device_of_this_machine, source_commit
from training.modeling import StudentConfig, StudentModel
from training.records import Utterance
from training.settings import begin, file_names, listed, parser_of, setting
from training.sizes import SIZES
from training.tokenizer import CLS, MASK, PAD, SPECIAL_PIECES, VOCABULARY, train_tokenizer

COMMAND = "training.pretrain"

log = logging.getLogger(COMMAND)

HELD_OUT = 2000
SCORED_EVERY = 4  # resume states
IGNORED = -100


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; each is a flag, and `--resume` inherits them all."""

    corpus: str = setting("", "comma-separated text files (.txt, .txt.gz; one sentence a line) or folders of them")
    data: str = setting("", "labelled data whose training texts are read too: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales of --data; all by default")
    size: str = setting("s", "encoder size", choices=tuple(SIZES))
    vocabulary: int = setting(VOCABULARY, "tokenizer pieces at most", low=100)
    tokenizer_lines: int = setting(300_000, "corpus lines, evenly spread, that the tokenizer is trained on", low=0)
    max_length: int = setting(64, "pieces of a line that are read at most", low=2)
    epochs: int = setting(1, "passes over the text", low=1)
    batch_size: int = setting(256, "lines a step", low=1)
    learning_rate: float = setting(1e-3, "peak of AdamW's rate: linear warm-up, then linear decay", low=0)
    weight_decay: float = setting(0.01, "decay of AdamW", low=0)
    dropout: float = setting(0.0, "dropout in the encoder", low=0, high=1)
    masked_share: float = setting(0.15, "share of the pieces to be predicted", low=0, high=1)
    seed: int = setting(1, "decides weights, order and masks", low=0)
    precision: str = setting("auto", "auto takes bf16 where the hardware computes it", choices=("auto", "bf16", "fp32"))
    on_error: str = setting("raise", "what to do with a bad row of --data", choices=("raise", "skip"))


class MaskedLanguageModel(nn.Module):
    """An encoder with the head that predicts pieces: transform, then the piece table itself (Devlin et al. 2019)."""

    def __init__(self, encoder: StudentModel) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.transform = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, chosen: Tensor) -> Tensor:
        """Logits [chosen pieces, vocabulary] at the positions where `chosen` [batch, pieces] is true."""
        hidden = self.encoder(input_ids, attention_mask).last_hidden_state[chosen]
        logits: Tensor = functional.linear(
            self.norm(functional.gelu(self.transform(hidden))), self.encoder.pieces.weight, self.bias
        )
        return logits


@dataclass(frozen=True)
class Lines:
    """Encoded lines, end to end: line i is `pieces[starts[i]:starts[i + 1]]` (int32)."""

    pieces: NDArray[np.int32]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, rows: NDArray[np.int64], pad_id: int) -> tuple[Tensor, Tensor]:
        """input_ids and attention_mask, [rows, longest line], int64."""
        lines = [self.pieces[self.starts[i] : self.starts[i + 1]] for i in rows]
        width = max(len(line) for line in lines)
        ids = np.full((len(lines), width), pad_id, dtype=np.int64)
        for row, line in enumerate(lines):
            ids[row, : len(line)] = line
        return torch.from_numpy(ids), torch.from_numpy((ids != pad_id).astype(np.int64))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parser_of(COMMAND, "Masked language modelling.", Settings).parse_args(argv)
    try:
        settings, state = begin(COMMAND, Settings, args)
        if not settings.corpus and not settings.data:
            raise ValueError("no text: give --corpus, --data or both")
        summary = pretrain(settings, args.out, args.save_every, state)
    except (ValueError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    print(json.dumps(summary))
    return 0


def pretrain(settings: Settings, out: Path, save_every: int, state: dict[str, Any] | None) -> dict[str, Any]:
    """One run, from text to checkpoint. Returns the summary.

    Raises:
        CorpusError, DatasetError: text that can't be read.
    """
    device = device_of_this_machine()
    torch.manual_seed(settings.seed)
    tokenizer = Tokenizer.from_str(state["tokenizer"]) if state else tokenizer_of(settings)
    ids = {name: tokenizer.token_to_id(name) for name in (PAD, CLS, MASK)}
    lines = encode(tokenizer, texts_of(settings), settings.max_length)
    log.info("%d lines, %d pieces, vocabulary %d", len(lines), len(lines.pieces), tokenizer.get_vocab_size())
    held_out = np.random.default_rng(settings.seed).permutation(len(lines))[: min(HELD_OUT, len(lines) // 10)]
    rows = np.setdiff1d(np.arange(len(lines)), held_out)
    model = new_model(settings, tokenizer.get_vocab_size()).to(device)
    steps = -(-len(rows) // settings.batch_size)
    loop = Loop(
        model,
        total=settings.epochs * steps,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        out=out,
        save_every=save_every,
        facts={"command": COMMAND, "settings": asdict(settings), "tokenizer": tokenizer.to_str()},
        state=state,
    )

    def loss_of(batch: NDArray[np.int64]) -> Tensor:
        input_ids, mask = (x.to(device) for x in lines.batch(batch, ids[PAD]))
        corrupted, targets = mask_pieces(input_ids, mask, settings.masked_share, ids, len(model.bias))
        with autocast_of(settings.precision, device):
            logits = model(corrupted, mask, targets != IGNORED)
        return functional.cross_entropy(logits.float(), targets[targets != IGNORED])

    with loop.bar():
        while not loop.finished:
            epoch, done = divmod(loop.progress.step, steps)
            order = np.random.default_rng([settings.seed, epoch])
            lengths = (lines.starts[1:] - lines.starts[:-1])[rows]
            for batch in length_buckets(lengths, settings.batch_size, order)[done:]:
                loop.step(partial(loss_of, rows[batch]))
                if loop.progress.step % (SCORED_EVERY * save_every) == 0:
                    tqdm.write(f"step {loop.progress.step}: {scored(model, held_out, loss_of)}", file=sys.stderr)
    loop.save_state()
    result = scored(model, held_out, loss_of)
    training = {"lines": len(rows), "pieces": len(lines.pieces), "held_out": result}
    save_checkpoint(out, model.encoder, tokenizer, {**provenance(settings, loop), **training})
    (out / RESUME_FILE).unlink()
    return {
        "checkpoint": str(out),
        "steps": loop.progress.step,
        "minutes": round(loop.progress.seconds / 60, 1),
        **result,
    }


def new_model(settings: Settings, vocabulary: int) -> MaskedLanguageModel:
    """A model of the asked size with random weights."""
    config = StudentConfig.of_size(
        settings.size,
        Labels(),
        vocab_size=vocabulary,
        max_position_embeddings=settings.max_length,
        dropout=settings.dropout,
    )
    return MaskedLanguageModel(StudentModel(config))


def provenance(settings: Settings, loop: Loop) -> dict[str, Any]:
    """What `training.json` says of the run, so that the checkpoint explains itself."""
    return {
        "command": COMMAND,
        "settings": {**asdict(settings), "data": Path(settings.data).name, "corpus": file_names(settings.corpus)},
        "steps": loop.progress.step,
        "seconds": round(loop.progress.seconds, 1),
        "commit": source_commit(),
    }


def mask_pieces(
    input_ids: Tensor, mask: Tensor, share: float, ids: dict[str, int], vocabulary: int
) -> tuple[Tensor, Tensor]:
    """Corrupted input_ids and targets (IGNORED where nothing is to be predicted), both [batch, pieces].

    Of a `share` of the pieces, at least one in a batch, 80 % become [MASK], 10 % a random piece, 10 % stay (Devlin et
    al. 2019). Padding and [CLS] are never chosen.
    """
    candidates = (mask == 1) & (input_ids != ids[CLS])
    chosen = candidates & (torch.rand(input_ids.shape, device=input_ids.device) < share)
    if not bool(chosen.any()):
        chosen = candidates
    fate = torch.rand(input_ids.shape, device=input_ids.device)
    anything = torch.randint(len(SPECIAL_PIECES), vocabulary, input_ids.shape, device=input_ids.device)
    corrupted = torch.where(chosen & (fate < 0.8), torch.full_like(input_ids, ids[MASK]), input_ids)
    corrupted = torch.where(chosen & (fate >= 0.8) & (fate < 0.9), anything, corrupted)
    return corrupted, torch.where(chosen, input_ids, torch.full_like(input_ids, IGNORED))


def scored(model: MaskedLanguageModel, held_out: NDArray[np.int64], loss_of: Any) -> dict[str, float]:
    """Loss (nats a piece) on the held-out lines, always with the same masks; leaves the random state as it was."""
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        losses = [float(loss_of(rows)) for rows in np.array_split(held_out, max(1, len(held_out) // 256))]
    return {"held_out_loss": round(float(np.mean(losses)), 4)}


def texts_of(settings: Settings) -> Iterator[str]:
    """All lines that are trained on: the labelled data's training texts, then the corpus."""
    task = (utterance.text for utterance in task_utterances(settings))
    return chain(task, read_lines(listed(settings.corpus))) if settings.corpus else task


def task_utterances(settings: Settings) -> list[Utterance]:
    """The training partition of the labelled data."""
    if not settings.data:
        return []
    locales = listed(settings.locales) or None
    return datasets.load(settings.data, locales, settings.on_error).part("train", locales)  # type: ignore[arg-type]


def tokenizer_of(settings: Settings) -> Tokenizer:
    """A tokenizer trained on the task texts, a typed variant of each, and evenly spread lines of the corpus."""
    rng = random.Random(settings.seed)
    task = task_utterances(settings)
    texts = [u.text for u in task] + [augment(u, rng, 1.0).text for u in task]
    if settings.corpus and settings.tokenizer_lines:
        count = sum(1 for _ in read_lines(listed(settings.corpus)))
        step = max(1, count // settings.tokenizer_lines)
        texts += islice(read_lines(listed(settings.corpus)), 0, None, step)
    log.info("training the tokenizer on %d texts", len(texts))
    return train_tokenizer(texts, settings.vocabulary)


def encode(tokenizer: Tokenizer, texts: Iterable[str], max_length: int) -> Lines:
    """All texts as pieces, cut at `max_length`; four bytes a piece."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    parts: list[NDArray[np.int32]] = []
    lengths: list[int] = []
    iterator = iter(texts)
    with tqdm(unit="line", desc="tokenising", mininterval=0.5 if sys.stderr.isatty() else 15) as bar:
        while chunk := list(islice(iterator, 10_000)):
            encodings = tokenizer.encode_batch_fast(chunk)
            lengths += [len(e.ids) for e in encodings]
            parts.append(np.fromiter(chain.from_iterable(e.ids for e in encodings), dtype=np.int32))
            bar.update(len(chunk))
    tokenizer.no_truncation()
    return Lines(np.concatenate(parts), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


if __name__ == "__main__":
    sys.exit(main())
