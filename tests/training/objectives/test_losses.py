from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from training.objectives.losses import HIDDEN_LOSSES, PREDICTION_LOSSES, choose

SEEDS = st.integers(0, 2**31 - 1)
FEW = settings(max_examples=40)


def logits(seed: int, rows: int, classes: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    pair = torch.randn(2, rows, classes, generator=source) * scale
    return pair[0].requires_grad_(), pair[1]


def states(seed: int, batch: int, tokens: int, width: int, other: int) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    student = torch.randn(batch, tokens, width, generator=source)
    teacher = torch.randn(batch, tokens, other, generator=source)
    mask = (torch.rand(batch, tokens, generator=source) < 0.7).long()
    return student.requires_grad_(), teacher, mask


def soft(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    weights = [math.exp((z - top) / temperature) for z in row]
    return [w / sum(weights) for w in weights]


def naive_prediction(name: str, student: list[list[float]], teacher: list[list[float]], temperature: float) -> float:
    total = 0.0
    for z, v in zip(student, teacher, strict=True):
        q, p = soft(z, temperature), soft(v, temperature)
        if name == "kl":
            total += temperature**2 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
        elif name == "cross_entropy":
            total -= temperature**2 * sum(a * math.log(b) for a, b in zip(p, q, strict=True))
        else:
            shift = sum(z) / len(z) - sum(v) / len(v)
            total += sum((a - b - shift) ** 2 for a, b in zip(z, v, strict=True)) / len(z)
    return total / max(1, len(student))


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def naive_hidden(name: str, student: Tensor, teacher: Tensor, mask: Tensor) -> float:
    terms = []
    for s, t, there in zip(student.tolist(), teacher.tolist(), mask.tolist(), strict=True):
        kept = [i for i, here in enumerate(there) if here]
        if name == "relations":
            pairs = [(cosine(s[i], s[j]) - cosine(t[i], t[j])) ** 2 for i in kept for j in kept]
            terms += [sum(pairs) / len(pairs)] if pairs else []
        for i in kept:
            if name == "mse":
                terms.append(sum((a - b) ** 2 for a, b in zip(s[i], t[i], strict=True)) / len(s[i]))
            elif name == "ce":
                p, q = soft(t[i], 1.0), soft(s[i], 1.0)
                terms.append(-sum(a * math.log(b) for a, b in zip(p, q, strict=True)))
            elif name == "cosine":
                terms.append(1 - cosine(s[i], t[i]))
            elif name == "pkd" and i == 0:
                lengths = math.hypot(*s[i]), math.hypot(*t[i])
                squares = [(a / lengths[0] - b / lengths[1]) ** 2 for a, b in zip(s[i], t[i], strict=True)]
                terms.append(sum(squares) / len(squares))
    return sum(terms) / max(1, len(terms))


@FEW
@given(
    st.sampled_from(list(PREDICTION_LOSSES)),
    SEEDS,
    st.integers(0, 5),
    st.integers(1, 7),
    st.floats(0.5, 20),
    st.sampled_from([0.0, 0.1, 3.0]),
)
def test_prediction_losses_are_what_a_loop_computes(
    name: str, seed: int, rows: int, classes: int, temperature: float, scale: float
) -> None:
    student, teacher = logits(seed, rows, classes, scale)

    loss = PREDICTION_LOSSES[name](student, teacher, temperature)

    assert loss.shape == ()
    wanted = naive_prediction(name, student.tolist(), teacher.tolist(), temperature)
    assert loss.item() == pytest.approx(wanted, rel=1e-4, abs=1e-6 * temperature**2)


@FEW
@given(
    st.sampled_from(list(HIDDEN_LOSSES)),
    SEEDS,
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_hidden_losses_are_what_a_loop_computes(
    name: str, seed: int, batch: int, tokens: int, width: int, other: int
) -> None:
    loss = HIDDEN_LOSSES[name]
    student, teacher, mask = states(seed, batch, tokens, width, width if loss.equal_widths else other)

    value = loss.function(student, teacher, mask)

    assert value.shape == ()
    assert value.item() == pytest.approx(naive_hidden(name, student, teacher, mask), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_of_two_classes_is_the_closed_form(temperature: float) -> None:
    p, q = 0.9, 0.6
    student = temperature * torch.tensor([[math.log(q), math.log(1 - q)]])
    teacher = temperature * torch.tensor([[math.log(p), math.log(1 - p)]])
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    entropy = -p * math.log(p) - (1 - p) * math.log(1 - p)

    assert PREDICTION_LOSSES["kl"](student, teacher, temperature).item() == pytest.approx(
        temperature**2 * divergence, rel=1e-5
    )
    assert PREDICTION_LOSSES["cross_entropy"](student, teacher, temperature).item() == pytest.approx(
        temperature**2 * (divergence + entropy), rel=1e-5
    )
    assert PREDICTION_LOSSES["mse"](student, student + 3, temperature).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", ["kl", "cross_entropy"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_the_gradient_is_the_closed_form(name: str, temperature: float) -> None:
    student, teacher = logits(3, 5, 11)

    PREDICTION_LOSSES[name](student, teacher, temperature).backward()

    wanted = temperature * ((student / temperature).softmax(-1) - (teacher / temperature).softmax(-1)) / len(student)
    torch.testing.assert_close(student.grad, wanted.detach(), atol=1e-6, rtol=1e-4)


def test_the_squared_temperature_keeps_the_gradient_on_its_scale() -> None:
    lengths = {}
    for temperature in (1.0, 10.0, 100.0):
        student, teacher = logits(0, 64, 50, scale=0.5)
        PREDICTION_LOSSES["kl"](student, teacher, temperature).backward()
        assert student.grad is not None
        lengths[temperature] = student.grad.norm().item()

    for temperature in (10.0, 100.0):
        assert lengths[temperature] / lengths[1.0] == pytest.approx(1, abs=0.5)
        bare = lengths[temperature] / temperature**2  # the gradient without the factor
        assert bare / lengths[1.0] < 2 / temperature**2


def test_kl_tends_to_half_the_error_of_centred_logits() -> None:
    student, teacher = logits(1, 6, 9)

    kl, mse = (PREDICTION_LOSSES[name](student.double(), teacher, 200.0).item() for name in ("kl", "mse"))

    assert kl == pytest.approx(mse / 2, rel=0.05)


@pytest.mark.parametrize("name", PREDICTION_LOSSES)
def test_no_rows_cost_nothing_and_keep_the_graph(name: str) -> None:
    student, teacher = logits(0, 0, 7)

    loss = PREDICTION_LOSSES[name](student, teacher, 2.0)
    loss.backward()

    assert loss.item() == 0
    assert student.grad is not None


@pytest.mark.parametrize("name", HIDDEN_LOSSES)
def test_nothing_but_padding_costs_nothing_and_keeps_the_graph(name: str) -> None:
    student, teacher, mask = states(0, 2, 3, 4, 4)

    loss = HIDDEN_LOSSES[name].function(student, teacher, torch.zeros_like(mask))
    loss.backward()

    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize("filler", [0.0, 1e4, math.nan])
@pytest.mark.parametrize("name", HIDDEN_LOSSES)
def test_padding_changes_neither_a_hidden_loss_nor_its_gradient(name: str, filler: float) -> None:
    student, teacher, _ = states(5, 3, 4, 6, 6)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
    padding = 1 - functional.pad(mask, (0, 3))
    wide = [
        functional.pad(x.detach(), (0, 0, 0, 3)).masked_fill(padding[:, :, None].bool(), filler)
        for x in (student, teacher)
    ]
    wide[0].requires_grad_()

    loss = HIDDEN_LOSSES[name].function(student, teacher, mask)
    padded = HIDDEN_LOSSES[name].function(wide[0], wide[1], 1 - padding)
    loss.backward()
    padded.backward()

    assert padded.item() == pytest.approx(loss.item(), rel=1e-5)
    assert student.grad is not None
    assert wide[0].grad is not None
    torch.testing.assert_close(wide[0].grad[:, :4], student.grad)
    assert not wide[0].grad[:, 4:].any()


@pytest.mark.parametrize("name", HIDDEN_LOSSES)
def test_gradients_are_finite_at_equal_states_and_at_zero(name: str) -> None:
    mask = torch.ones(2, 3)
    for student in (torch.zeros(2, 3, 4), torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))):
        student.requires_grad_()
        HIDDEN_LOSSES[name].function(student, student.detach().clone(), mask).backward()
        assert student.grad is not None
        assert student.grad.isfinite().all()


@pytest.mark.parametrize("name", PREDICTION_LOSSES)
def test_extreme_logits_of_half_precision_give_finite_gradients(name: str) -> None:
    student = torch.tensor([[3e4, -3e4, 0.0]], dtype=torch.float16, requires_grad=True)

    loss = PREDICTION_LOSSES[name](student, -student.detach(), 1.0)
    loss.backward()

    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@FEW
@given(SEEDS, st.floats(0.1, 10))
def test_what_each_hidden_loss_does_not_see(seed: int, scale: float) -> None:
    student, teacher, mask = states(seed, 3, 4, 5, 5)
    turned = teacher @ torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(seed))).Q

    def value(name: str, theirs: Tensor) -> float:
        return HIDDEN_LOSSES[name].function(student, theirs, mask).item()

    for name in ("cosine", "pkd", "relations"):  # the length of a state
        assert value(name, scale * teacher) == pytest.approx(value(name, teacher), rel=1e-3, abs=1e-5)
    assert value("relations", turned) == pytest.approx(value("relations", teacher), rel=1e-3, abs=1e-5)
    assert value("pkd", torch.cat([teacher[:, :1], turned[:, 1:]], dim=1)) == value("pkd", teacher)  # later tokens


def test_pkd_of_a_hand_computed_case() -> None:
    """Units (1, 0) and (0.6, 0.8) are sqrt(0.16 + 0.64) apart, (0, 1) and (0, -1) are 2 apart; two units each."""
    student = torch.tensor([[[2.0, 0.0], [9.0, 9.0]], [[0.0, 5.0], [1.0, 2.0]]])
    teacher = torch.tensor([[[3.0, 4.0], [1.0, 0.0]], [[0.0, -0.5], [7.0, 7.0]]])

    loss = HIDDEN_LOSSES["pkd"].function(student, teacher, torch.ones(2, 2))

    assert loss.item() == pytest.approx((0.8 + 4.0) / 4)


def test_relations_compare_states_of_different_widths() -> None:
    teacher = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(torch.randn(9, 6, generator=torch.Generator().manual_seed(1))).Q

    loss = HIDDEN_LOSSES["relations"].function(teacher @ basis.T, teacher, torch.ones(2, 4))

    assert loss.item() == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("name", [name for name, loss in HIDDEN_LOSSES.items() if loss.equal_widths])
def test_unequal_widths_are_refused_by_those_that_need_equal_ones(name: str) -> None:
    with pytest.raises(ValueError, match="differ"):
        HIDDEN_LOSSES[name].function(torch.zeros(2, 3, 1), torch.zeros(2, 3, 4), torch.ones(2, 3))


def test_other_tokens_classes_and_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match="same tokens"):
        HIDDEN_LOSSES["relations"].function(torch.zeros(2, 3, 4), torch.zeros(2, 1, 4), torch.ones(2, 3))
    with pytest.raises(ValueError, match="differ"):
        PREDICTION_LOSSES["mse"](torch.zeros(2, 3), torch.zeros(2, 1), 1.0)
    with pytest.raises(ValueError, match="not above 0"):
        PREDICTION_LOSSES["kl"](torch.zeros(2, 3), torch.zeros(2, 3), 0.0)


def test_an_unknown_name_is_answered_with_the_allowed_ones() -> None:
    with pytest.raises(ValueError, match="hidden loss 'cka'; allowed: ce, mse, cosine, pkd, relations"):
        choose(HIDDEN_LOSSES, "cka", "hidden loss")
    assert choose(HIDDEN_LOSSES, "pkd", "hidden loss") is HIDDEN_LOSSES["pkd"]
