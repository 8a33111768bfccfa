"""Terms of a distillation objective: losses between the predictions, or the hidden states, of student and teacher.

Pure functions in two registries, `PREDICTION_LOSSES` and `HIDDEN_LOSSES`. Logits are in nats. All inputs are
converted to float32. The caller detaches the teacher from the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-6  # minimum norm that a state is divided by; a smaller one would give states near 0 huge gradients

PredictionLoss = Callable[[Tensor, Tensor, float], Tensor]
"""(student logits [n, classes], teacher logits [n, classes], temperature) -> scalar, the mean over the n rows."""

HiddenFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student [batch, tokens, d], teacher [batch, tokens, D], mask [batch, tokens], 0 for padding) -> scalar."""

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class HiddenLoss:
    """A loss between hidden states; with `equal_widths` the caller must project the narrower states (d = D)."""

    function: HiddenFunction
    equal_widths: bool


def choose(registry: Mapping[str, Entry], name: str, kind: str) -> Entry:
    """The entry of that name. Raises ValueError, naming the allowed names, for an unknown one."""
    if name not in registry:
        raise ValueError(f"{kind} {name!r}; allowed: {', '.join(registry)}")
    return registry[name]


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(p || q) per row, with p, q = softmax(logits / T) of teacher and student (Hinton et al. 2015, section 2).

    The gradient with respect to the student's logits is T (q - p) / n. As q - p shrinks like 1/T, the factor T² keeps
    it on the scale of a hard cross entropy's (their eq. 2 to 4), so that a weight means the same at each T. In nats
    times T²; 0 exactly where both distributions agree.
    """
    log_p, log_q = _softened(student, teacher, temperature)
    return temperature**2 * functional.kl_div(log_q, log_p, reduction="sum", log_target=True) / max(1, len(log_q))


def truncated_kl(student: Tensor, tokens: Tensor, log_p: Tensor, temperature: float) -> Tensor:
    """`kl` where only the teacher's k most probable classes are known, and the mass of all others together.

    student: logits [n, classes]. tokens: the k classes, [n, k], int64. log_p: the logarithms of the teacher's softened
    probabilities of these and, last, of the rest, [n, k + 1]; -inf where k is the number of classes. The result is the
    divergence of the distributions over these k + 1 events, never above `kl` and equal to it without a rest. In nats
    times T², the mean over the n rows.
    """
    if log_p.shape != (len(student), tokens.shape[-1] + 1):
        raise ValueError(f"shapes {tuple(tokens.shape)} of tokens and {tuple(log_p.shape)} of log_p do not fit")
    log_q = (student.float() / temperature).log_softmax(dim=-1).gather(-1, tokens)
    rest = (1 - log_q.exp().sum(dim=-1, keepdim=True)).clamp(min=EPSILON).log()
    log_p = log_p.float().log_softmax(dim=-1)  # half precision does not quite sum up to 1
    gap = torch.where(log_p.isinf(), 0.0, log_p - torch.cat([log_q, rest], dim=-1))
    return temperature**2 * (log_p.exp() * gap).sum() / max(1, len(student))


def cross_entropy(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² times the cross entropy of q against p, per row: `kl` plus T² H(p), so the same gradient (Hinton et al. 2015).

    In nats times T²; its least value is the teacher's entropy, not 0.
    """
    log_p, log_q = _softened(student, teacher, temperature)
    return -(temperature**2) * (log_p.exp() * log_q).sum() / max(1, len(log_q))


def mse(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over rows and classes of the squared difference of logits, each row centred first; T is not used.

    Regression on logits is Ba and Caruana 2014 (eq. 1). Centred, as a softmax ignores a shift, it is the
    limit of `kl` as T grows: kl -> mse / 2 (Hinton et al. 2015, eq. 4). In squared nats.
    """
    del temperature  # unused; part of the common signature
    _check_shapes(student, teacher)
    gap = student.float() - teacher.float()
    gap = gap - gap.mean(dim=-1, keepdim=True)
    return gap.square().sum() / max(1, gap.numel())


def hidden_mse(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the states over tokens and units (Jiao et al. 2020, TinyBERT, eq. 8).

    The caller applies their learned projection of narrower states, W_h. In squared units of the states.
    """
    ours, theirs = _tokens(student, teacher, mask)
    return (ours - theirs).square().sum() / max(1, ours.numel())


def hidden_cross_entropy(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy of the student's softmax over units against the teacher's, the mean over tokens, in nats.

    One of the intermediate losses compared by He et al. 2021 (Distiller, section 3). Its least value is the entropy of
    the teacher's softmax, not 0.
    """
    ours, theirs = _tokens(student, teacher, mask)
    return -(theirs.softmax(dim=-1) * ours.log_softmax(dim=-1)).sum() / max(1, len(ours))


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 - cosine of a token's two states, the mean over tokens (Sanh et al. 2019, DistilBERT, section 3); 0 to 2."""
    ours, theirs = _tokens(student, teacher, mask)
    return (1 - (_unit(ours) * _unit(theirs)).sum(dim=-1)).sum() / max(1, len(ours))


def hidden_pkd(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error of the first tokens' states, each of length 1 (Sun et al. 2019, Patient KD, eq. 7).

    With s_i and t_i the states [d] of the first token ([CLS]) of sentence i of n::

        L_PT = 1 / (n d) sum_i || s_i / ||s_i|| - t_i / ||t_i|| ||^2

    They sum over sentences and units; the mean is that of their published code. Between 0 and 4 / d.
    """
    ours, theirs = _tokens(student[:, :1], teacher[:, :1], mask[:, :1])
    return (_unit(ours) - _unit(theirs)).square().sum() / max(1, ours.numel())


def hidden_relations(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared difference of the cosines between a sentence's tokens, over all pairs; mean over sentences; 0 to 4.

    Needs no projection, as each matrix is [tokens, tokens]. The pair-wise distillation of Liu et al. 2019 (Structured
    Knowledge Distillation for Semantic Segmentation, CVPR), with tokens of a sentence for pixels of an image; between
    the examples of a batch it would be Tung and Mori 2019 (similarity-preserving), and the idea, to match relations
    in place of states, is Park et al. 2019 (RKD). A sentence's n² pairs count with the n on the diagonal, which are 0.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(f"shapes {tuple(student.shape)} and {tuple(teacher.shape)} are not of the same tokens")
    there = mask.bool()
    with torch.autocast(student.device.type, enabled=False):  # else the products are rounded to half precision
        gap = _cosines(student, there) - _cosines(teacher, there)
    length = there.sum(dim=-1).float()
    by_sentence = gap.square().sum(dim=(-1, -2)) / length.square().clamp(min=1)
    return by_sentence.sum() / (length > 0).sum().clamp(min=1)


PREDICTION_LOSSES: dict[str, PredictionLoss] = {"kl": kl, "cross_entropy": cross_entropy, "mse": mse}

HIDDEN_LOSSES: dict[str, HiddenLoss] = {
    "ce": HiddenLoss(hidden_cross_entropy, equal_widths=True),
    "mse": HiddenLoss(hidden_mse, equal_widths=True),
    "cosine": HiddenLoss(hidden_cosine, equal_widths=True),
    "pkd": HiddenLoss(hidden_pkd, equal_widths=True),
    "relations": HiddenLoss(hidden_relations, equal_widths=False),
}


def _check_shapes(student: Tensor, teacher: Tensor) -> None:
    """Raise ValueError for shapes that would be broadcast silently."""
    if student.shape != teacher.shape:
        raise ValueError(f"shapes {tuple(student.shape)} of student and {tuple(teacher.shape)} of teacher differ")


def _softened(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log probabilities at the temperature: the teacher's, the student's; each [n, classes]."""
    _check_shapes(student, teacher)
    if temperature <= 0:
        raise ValueError(f"temperature {temperature} is not above 0")
    return (teacher.float() / temperature).log_softmax(dim=-1), (student.float() / temperature).log_softmax(dim=-1)


def _tokens(student: Tensor, teacher: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The states of all tokens except padding, [tokens, width] each; states of padding are never read."""
    _check_shapes(student, teacher)
    there = mask.bool()
    return student[there].float(), teacher[there].float()


def _unit(states: Tensor) -> Tensor:
    return functional.normalize(states, dim=-1, eps=EPSILON)


def _cosines(states: Tensor, there: Tensor) -> Tensor:
    """Cosines between tokens of a sentence, [batch, tokens, tokens]; 0 with padding."""
    unit = _unit(states.float().masked_fill(~there[:, :, None], 0.0))
    return unit @ unit.transpose(-1, -2)
