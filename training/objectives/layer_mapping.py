"""Which layer of a teacher each layer of a student learns from, or is initialised from.

A mapping takes the numbers of layers of student and teacher and gives pairs (student layer, teacher layer), in the
student's order. Layers count from 1; 0 is the embeddings, the input of the first layer (as in Jiao et al. 2020). A
student may be deeper than its teacher; then layers of the teacher are used more than once, or only some are paired.
"""

from __future__ import annotations

from collections.abc import Callable

LayerMapping = Callable[[int, int], list[tuple[int, int]]]


def last(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Only the last layers, as DistilBERT's cosine loss does (Sanh et al. 2019)."""
    return [(student_layers, teacher_layers)]


def embeddings_and_last(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """The embeddings and the last layers: the two ends of the mapping of TinyBERT (Jiao et al. 2020, section 3)."""
    return [(0, 0), (student_layers, teacher_layers)]


def uniform(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Each layer i with layer round(i T / S), so every k-th where T = k S, and the last with the last.

    TinyBERT's g(m) = k m (Jiao et al. 2020, section 4), Patient KD's PKD-Skip (Sun et al. 2019; they leave the last
    layer out, because it has the prediction loss), and DistilBERT's initialisation with one layer of two.
    """
    ratio = 2 * student_layers  # in whole numbers, as floats would round some halves down; halves go up
    return [(i, max(1, (2 * i * teacher_layers + student_layers) // ratio)) for i in range(1, student_layers + 1)]


def first(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Each layer i with layer i: the initialisation of Patient KD (Sun et al. 2019)."""
    return [(i, i) for i in range(1, min(student_layers, teacher_layers) + 1)]


def top(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """The topmost layers in order: Patient KD's PKD-Last (Sun et al. 2019), here with the very last layer."""
    count = min(student_layers, teacher_layers)
    return [(student_layers - back, teacher_layers - back) for back in reversed(range(count))]


MAPPINGS = (last, embeddings_and_last, uniform, first, top)
LAYER_MAPPINGS: dict[str, LayerMapping] = {mapping.__name__: mapping for mapping in MAPPINGS}
