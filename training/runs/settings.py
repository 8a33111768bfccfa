"""The settings of the training commands: everything that decides the outcome of a run. Imports no torch.

Each field is a flag of its command; `--resume` inherits them all.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.data.labels import HEADS
from training.models.sizes import ACTIVATIONS, DEFAULT_ACTIVATION, DEFAULT_SIZE, SIZES
from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.runs.flags import setting
from training.text.tokenizer import VOCABULARY

NONE = "none"
RANDOM, INHERITED = "random", "teacher"  # first weights of a distilled student
PREDICTION_LOSSES = ("kl", "cross_entropy", "mse")  # names of training.objectives.losses
HIDDEN_LOSSES = ("mse", "cosine", "pkd", "relations")
PRECISIONS = ("auto", "bf16", "fp32")
ON_ERROR = ("raise", "skip")
OF_INIT = "that of --init, else"


@dataclass(frozen=True)
class FinetuneSettings:
    """The settings of `training.finetune`."""

    data: str = setting(
        "", "labelled data: folder, tarball, file or hub:NAME", shown="that of the resumed run; needed otherwise"
    )
    locales: str = setting(
        "", "comma-separated locales that the student serves and is scored on", shown="all of --data"
    )
    extra_locales: str = setting("", "comma-separated further locales to train on only, such as related languages")
    init: str = setting(
        "",
        "checkpoint, Hugging Face folder or hub name to start from: tokenizer, encoder, and heads with the same labels",
        unit="CKPT",
    )
    teacher: str = setting(
        "", "comma-separated fine-tuned checkpoints or exported students to imitate on the training utterances"
    )
    unlabelled: str = setting(
        "", "comma-separated files of plain sentences on which the student only imitates the teachers", unit="FILES"
    )
    unlabelled_share: float = setting(
        0.5, "such sentences a step, as a share of --batch-size", low=0.01, high=16, unit="SHARE"
    )
    teacher_weight: float = setting(
        0.7, "share of the loss that imitates the teachers; the rest is labels", low=0, high=1, unit="SHARE"
    )
    temperature: float = setting(1.0, "softens the teachers' probabilities", low=0.1)
    size: str = setting("", "encoder size", choices=tuple(SIZES), shown=f"{OF_INIT} {DEFAULT_SIZE}")
    heads: str = setting(",".join(HEADS), "comma-separated heads", choices=HEADS, several=True)
    activation: str = setting(
        "", "feed-forward activation", choices=ACTIVATIONS, shown=f"{OF_INIT} {DEFAULT_ACTIVATION}"
    )
    vocabulary: int = setting(VOCABULARY, "tokenizer pieces at most", low=100, unit="PIECES")
    max_length: int = setting(64, "pieces of a text that the student reads at most", low=2, unit="PIECES")
    epochs: int = setting(12, "passes over the training data", low=1)
    batch_size: int = setting(128, "utterances a step and process", low=1, unit="UTTERANCES")
    learning_rate: float = setting(
        1e-3, "peak of AdamW's rate: linear warm-up over the first steps, then linear decay", low=0, unit="RATE"
    )
    weight_decay: float = setting(0.01, "decay of AdamW", low=0, unit="RATE")
    average: float = setting(
        0.0,
        "decay a step of the average of the weights that is scored and kept, 0 for no average",
        low=0,
        high=1,
        unit="RATE",
    )
    dropout: float = setting(
        0.2, "dropout in the encoder; of a Hugging Face one before its heads", low=0, high=1, unit="SHARE"
    )
    unknown_share: float = setting(0.1, "share of training pieces replaced by [UNK]", low=0, high=1, unit="SHARE")
    augmented_share: float = setting(
        0.5, "share of training utterances rewritten as typed text", low=0, high=1, unit="SHARE"
    )
    substituted_share: float = setting(
        0.0,
        "share of training utterances with slots that get other values of their kind",
        low=0,
        high=1,
        unit="SHARE",
    )
    label_smoothing: float = setting(
        0.1, "share of the target that is spread over all labels", low=0, high=1, unit="SHARE"
    )
    out_of_scope: str = setting(
        "",
        "comma-separated [LOCALE=]FILE of plain sentences that are no requests, on which the student learns low "
        "confidence",
        unit="FILES",
    )
    out_of_scope_share: float = setting(
        0.25, "such sentences a step, as a share of --batch-size", low=0.01, high=1, unit="SHARE"
    )
    slot_weight: float = setting(2.0, "weight of the slot loss beside domain and intent", low=0, unit="WEIGHT")
    seed: int = setting(1, "decides weights, order and augmentation", low=0)
    precision: str = setting("auto", "auto takes bf16 where the hardware computes it", choices=PRECISIONS)
    on_error: str = setting("raise", "what to do with a bad row of --data", choices=ON_ERROR)


@dataclass(frozen=True)
class TextSettings:
    """The settings of every run over plain text."""

    corpus: str = setting("", "comma-separated text files (.txt, .txt.gz; one sentence a line), folders or hub:NAME")
    max_length: int = setting(64, "pieces of a line that are read at most", low=2, unit="PIECES")
    epochs: int = setting(1, "passes over the text", low=1)
    steps: int = setting(
        0, "optimiser steps, over as many passes as they take", low=0, shown="as many as --epochs need"
    )
    batch_pieces: int = setting(4096, "pieces a step and process", low=1, unit="PIECES")
    learning_rate: float = setting(1e-3, "peak of AdamW's rate: linear warm-up, then linear decay", low=0, unit="RATE")
    weight_decay: float = setting(0.01, "decay of AdamW", low=0, unit="RATE")
    dropout: float = setting(0.0, "dropout in the encoder", low=0, high=1, unit="SHARE")
    masked_share: float = setting(0.15, "share of the pieces to be predicted", low=0, high=1, unit="SHARE")
    seed: int = setting(1, "decides weights, order and masks", low=0)
    precision: str = setting("auto", "auto takes bf16 where the hardware computes it", choices=PRECISIONS)


@dataclass(frozen=True)
class PretrainSettings(TextSettings):
    """The settings of `training.pretrain`."""

    data: str = setting("", "labelled data whose training texts are read too: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales of --data", shown="all of --data")
    init: str = setting(
        "", "encoder to go on from, with its tokenizer: checkpoint, Hugging Face folder or hub name", unit="CKPT"
    )
    tokenizer: str = setting(
        "", "tokenizer.json to use", unit="FILE", shown="that of --init, else one that is trained on the text"
    )
    size: str = setting("", "encoder size", choices=tuple(SIZES), shown=f"{OF_INIT} {DEFAULT_SIZE}")
    vocabulary: int = setting(VOCABULARY, "pieces at most of a tokenizer that is trained", low=100, unit="PIECES")
    tokenizer_lines: int = setting(300_000, "corpus lines, evenly spread, that it is trained on", low=0, unit="LINES")
    on_error: str = setting("raise", "what to do with a bad row of --data", choices=ON_ERROR)


@dataclass(frozen=True)
class DistillSettings(TextSettings):
    """The settings of `training.distill`."""

    teacher: str = setting(
        "", "what to imitate: checkpoint, Hugging Face folder or hub name; its tokenizer is shared", unit="CKPT"
    )
    size: str = setting(DEFAULT_SIZE, "encoder size of the student", choices=tuple(SIZES))
    chain: str = setting(
        "",
        "comma-separated sizes of intermediates, each taught by the one before",
        choices=tuple(SIZES),
        several=True,
        unit="SIZES",
    )
    start: str = setting(
        RANDOM, f"first weights: {RANDOM}, {INHERITED} (the teacher's own layers), or a checkpoint with its tokenizer"
    )
    prediction_loss: str = setting("kl", "compares the distributions over the vocabulary", choices=PREDICTION_LOSSES)
    temperature: float = setting(2.0, "softens both distributions of the soft loss", low=0.1)
    soft_weight: float = setting(1.0, "weight of the soft loss", low=0, unit="WEIGHT")
    hard_weight: float = setting(0.5, "weight of the masked-language loss on the text itself", low=0, unit="WEIGHT")
    hidden_loss: str = setting(NONE, "compares hidden states", choices=(NONE, *HIDDEN_LOSSES))
    hidden_weight: float = setting(1.0, "weight of the hidden-state loss", low=0, unit="WEIGHT")
    layer_mapping: str = setting(
        "uniform", "which layers are compared, or inherited, in pairs", choices=tuple(LAYER_MAPPINGS)
    )
