"""The settings of the training commands: everything that decides the outcome of a run. Imports no torch.

Each field is a flag of its command; `--resume` inherits them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from training.data.formats.base import OFFSETS, ReadOptions
from training.data.labels import HEADS
from training.data.options import FORMAT_NAMES, HELP
from training.data.policy import KINDS
from training.models.sizes import ACTIVATIONS, DEFAULT_ACTIVATION, DEFAULT_SIZE, SIZES
from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.runs.flags import setting
from training.text.tokenizer import VOCABULARY

NONE = "none"
RANDOM, INHERITED = "random", "teacher"  # first weights of a distilled student
PREDICTION_LOSSES = ("kl", "cross_entropy", "mse")  # names of training.objectives.losses
HIDDEN_LOSSES = ("ce", "mse", "cosine", "pkd", "relations")
MI, EMD = "mi", "emd"  # of training.objectives.intermediate
ON_ERROR = ("raise", "skip")
OF_INIT = "that of --init, else"

share = partial(setting, low=0, high=1, unit="SHARE")
weight = partial(setting, low=0, unit="WEIGHT")
tokens = partial(setting, low=2, unit="TOKENS")
encoder_size = partial(setting, choices=tuple(SIZES))


@dataclass(frozen=True)
class RunSettings:
    """The settings of every training run."""

    max_length: int = tokens(64, "maximum length of a text, in tokens")
    epochs: int = setting(1, "passes over the text", low=1)
    learning_rate: float = setting(1e-3, "peak of AdamW's rate: linear warm-up, then linear decay", low=0, unit="RATE")
    warm_up: float = share(0.05, "share of the steps in which the rate rises linearly")
    weight_decay: float = setting(0.01, "decay of AdamW; norms and biases have none", low=0, unit="RATE")
    max_grad_norm: float = setting(1.0, "longer gradients are scaled down to this norm; 0: none", low=0, unit="NORM")
    dropout: float = share(0.0, "dropout in the encoder; of a Hugging Face one before its heads")
    seed: int = setting(1, "random seed of weights, order, masks and augmentation", low=0)
    precision: str = setting("auto", "auto: bf16 where the hardware computes it", choices=("auto", "bf16", "fp32"))


@dataclass(frozen=True)
class FinetuneSettings(RunSettings):
    """The settings of `training.finetune`."""

    data: str = setting("", "labelled data: folder, tarball, file or hub:NAME", shown="that of the resumed run")
    locales: str = setting("", "comma-separated locales that are served and scored", shown="all of --data")
    extra_locales: str = setting("", "comma-separated further locales to train on only, such as related languages")
    train_share: float = share(1.0, "random share of the training utterances that is trained on", low=0.001)
    selection_share: float = share(
        1.0, "share of dev, by id, that epochs are scored on; the rest stays unseen", low=0.01
    )
    init: str = setting("", "checkpoint, student, Hugging Face folder or hub name to start from", unit="CKPT")
    init_layers: str = setting(
        "", "layers of a deeper --init to take: 2,4,6, or a mapping's name", unit="LAYERS", shown="uniform"
    )
    tokenizer: str = setting(
        "",
        "tokenizer.json to use, or the checkpoint whose it is",
        unit="FILE",
        shown=f"{OF_INIT} trained on the data",
    )
    teacher: str = setting("", "comma-separated fine-tuned checkpoints or students to imitate", unit="CKPTS")
    unlabelled: str = setting("", "comma-separated files of plain sentences, for imitation alone", unit="FILES")
    unlabelled_share: float = share(0.5, "such sentences per step, as a share of --batch-size", low=0.01, high=16)
    teacher_weight: float = share(0.7, "share of the loss that imitates the teachers; the rest is labels")
    teacher_cache: str = setting("", "folder of the teachers' logits, for further runs", shown="one in --out, removed")
    views: int = setting(4, "variants of each utterance that the teachers read; epochs take turns with them", low=1)
    prediction_loss: str = setting("kl", "compares the student's logits with the teachers'", choices=PREDICTION_LOSSES)
    temperature: float = setting(2.0, "softens teachers' and student's probabilities; unused by mse", low=0.1)
    size: str = encoder_size("", "encoder size", shown=f"{OF_INIT} {DEFAULT_SIZE}")
    heads: str = setting(",".join(HEADS), "comma-separated heads", choices=HEADS, several=True)
    activation: str = setting("", "activation", choices=ACTIVATIONS, shown=f"{OF_INIT} {DEFAULT_ACTIVATION}")
    position_bias: bool | None = setting(None, "bias of attention by relative position", shown=f"{OF_INIT} none")
    vocabulary: int = tokens(VOCABULARY, "maximum vocabulary of the tokenizer, in tokens", low=100)
    epochs: int = setting(12, "passes over the training data", low=1)
    batch_size: int = setting(128, "utterances per step and process", low=1, unit="UTTERANCES")
    layer_decay: float = share(1.0, "rate of a layer as a share of the next one's; embeddings: the lowest", low=0.1)
    head_rate: float = setting(1.0, "rate of the heads, as a multiple of --learning-rate", low=0, unit="FACTOR")
    average: float = share(0.0, "decay per step of the average of the weights that is scored and saved; 0: none")
    dropout: float = share(0.2, "dropout in the encoder; of a Hugging Face one before its heads")
    unknown_share: float = share(0.1, "share of training tokens replaced by [UNK]")
    augmented_share: float = share(0.5, "share of training utterances rewritten as typed text")
    substituted_share: float = share(0.0, "share of training utterances that get other values in their slots")
    label_smoothing: float = share(0.1, "share of the target that is spread over all labels")
    out_of_scope: str = setting("", "comma-separated [LOCALE=]FILE of out-of-scope sentences", unit="FILES")
    out_of_scope_share: float = share(0.25, "such sentences per step, as a share of --batch-size", low=0.01)
    slot_weight: float = weight(2.0, "weight of the slot loss beside domain and intent")
    on_error: str = setting("raise", "what to do with a bad row of --data", choices=ON_ERROR)
    # The parts of distillation on task data that He et al. 2021 (Distiller) compare, beside those above
    hidden_loss: str = setting(
        NONE, "compares hidden states with the teacher's at each word", choices=(NONE, *HIDDEN_LOSSES, MI)
    )
    hidden_weight: float = weight(1.0, "weight of the hidden-state loss")
    layer_mapping: str = setting(
        "uniform", "which layers are compared; emd: all, by a transport plan", choices=(*LAYER_MAPPINGS, EMD)
    )
    mi_alpha: float = share(0.5, "share of the batch mean in the denominator of mi; 1: InfoNCE, 0: unnormalised")
    mixup: float = setting(
        0.0, "domain and intent learn from mixed pairs, with shares of Beta(this number); 0: none", low=0, unit="ALPHA"
    )
    augmentation: str = setting(
        "",
        f"rewritings in order, NAME:SHARE[:STRENGTH],... of {', '.join(KINDS)}; or {NONE}",
        unit="POLICY",
        shown="--substituted-share, then --augmented-share",
    )
    masked_model: str = setting("", "encoder with a masked-language head, for contextual augmentation", unit="CKPT")
    paraphrases: str = setting("", "text<TAB>paraphrase in each line, for paraphrased augmentation", unit="FILE")
    columns: str = setting("", HELP["columns"], unit="FIELD=COLUMN,...", shown="by name")
    offsets: str = setting(OFFSETS[0], HELP["offsets"], choices=OFFSETS)
    format: str = setting("", HELP["format"], choices=FORMAT_NAMES, shown="by content")
    dev_share: float = share(ReadOptions.dev_share, HELP["dev_share"], high=0.99)
    split_seed: int = setting(ReadOptions.seed, HELP["split_seed"])


@dataclass(frozen=True)
class TextSettings(RunSettings):
    """The settings of every run over plain text."""

    corpus: str = setting("", "plain text, a sentence a line: comma-separated files, folders or hub:NAME", unit="FILES")
    steps: int = setting(0, "optimiser steps, instead of --epochs", low=0, shown="as many as --epochs take")
    batch_tokens: int = tokens(4096, "tokens per step and process", low=1)
    masked_share: float = share(0.15, "share of the tokens to be predicted", low=0.01)


@dataclass(frozen=True)
class PretrainSettings(TextSettings):
    """The settings of `training.pretrain`."""

    data: str = setting("", "labelled data whose training texts are read too: folder, tarball, file or hub:NAME")
    locales: str = setting("", "comma-separated locales of --data", shown="all of --data")
    init: str = setting("", "checkpoint, student, Hugging Face folder or hub name to start from", unit="CKPT")
    tokenizer: str = setting("", "tokenizer.json to use", unit="FILE", shown=f"{OF_INIT} trained on the text")
    size: str = encoder_size("", "encoder size", shown=f"{OF_INIT} {DEFAULT_SIZE}")
    position_bias: bool | None = setting(None, "bias of attention by relative position", shown=f"{OF_INIT} none")
    replay: str = setting(
        "", "plain text that some of the steps read instead: files, folders or hub:NAME", unit="FILES"
    )
    replay_share: float = share(0.3, "share of the steps that read --replay", high=0.9)
    vocabulary: int = tokens(VOCABULARY, "maximum vocabulary of a tokenizer that is trained, in tokens", low=100)
    tokenizer_lines: int = setting(300_000, "corpus lines that it is trained on, evenly spread", low=0, unit="LINES")
    on_error: str = setting("raise", "what to do with a bad row of --data", choices=ON_ERROR)


@dataclass(frozen=True)
class DistillSettings(TextSettings):
    """The settings of `training.distill`."""

    teacher: str = setting("", "checkpoint, Hugging Face folder or hub name to imitate", unit="CKPT")
    size: str = encoder_size(DEFAULT_SIZE, "encoder size of the student")
    position_bias: bool | None = setting(
        None, "bias of attention by relative position", shown="that of --start, else that of --teacher"
    )
    masked_share: float = share(0.15, "share of the tokens to be predicted; 0: --hidden-loss alone, on plain text")
    chain: str = encoder_size("", "comma-separated intermediate sizes, each distilled from the previous", several=True)
    start: str = setting(RANDOM, f"first weights: {RANDOM}, {INHERITED} (its layers or tokens), or a checkpoint")
    prediction_loss: str = setting("kl", "compares distributions over the vocabulary", choices=PREDICTION_LOSSES)
    temperature: float = setting(2.0, "softens both distributions of the soft loss", low=0.1)
    soft_weight: float = weight(1.0, "weight of the soft loss")
    hard_weight: float = weight(0.5, "weight of the masked-language loss on the text itself")
    teacher_cache: str = setting(
        "",
        "folder of the teacher's predictions, for further runs on this text",
        unit="DIR",
        shown="none: it reads each batch",
    )
    cached_tokens: int = tokens(48, "most probable tokens of a prediction that --teacher-cache keeps", low=1)
    mask_variants: int = setting(
        0,
        "masks of each line in --teacher-cache; passes take turns with them",
        low=0,
        unit="VARIANTS",
        shown="one a pass",
    )
    hidden_loss: str = setting(NONE, "compares hidden states", choices=(NONE, *HIDDEN_LOSSES))
    hidden_weight: float = weight(1.0, "weight of the hidden-state loss")
    layer_mapping: str = setting("uniform", "which layers are compared, or inherited", choices=tuple(LAYER_MAPPINGS))
