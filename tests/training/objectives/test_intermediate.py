from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from training.models.batches import Example, collate
from training.models.checkpoint import load_checkpoint
from training.models.errors import CheckpointError
from training.objectives.intermediate import EMD, MI, IntermediateLoss, Shape, transport_plan
from training.objectives.layer_mapping import LAYER_MAPPINGS
from training.objectives.losses import HIDDEN_LOSSES
from training.objectives.mutual_information import Critics, interpolated_bound
from training.objectives.teacher_states import TeacherStates

FEW = settings(max_examples=30)
SEEDS = st.integers(0, 2**31 - 1)
NARROW, WIDE = Shape(2, 6), Shape(3, 10)


def scores_of(seed: int, count: int, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return scale * torch.randn(count, count, generator=source), torch.randn(count, generator=source)


@FEW
@given(SEEDS, st.integers(2, 9), st.floats(0.1, 20))
def test_with_alpha_1_the_bound_is_info_nce_and_at_most_log_k(seed: int, count: int, scale: float) -> None:
    scores, baseline = scores_of(seed, count, scale)

    bound = interpolated_bound(scores, baseline, 1.0)

    f = scores.double()
    wanted = (f.diagonal() - (f.exp().mean(dim=0)).log()).mean()  # the positive stands in the denominator
    assert bound.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)
    assert bound.item() <= math.log(count) + 1e-4


@FEW
@given(SEEDS, st.integers(2, 9))
def test_with_alpha_0_the_bound_is_the_unnormalised_one(seed: int, count: int) -> None:
    scores, baseline = scores_of(seed, count)

    bound = interpolated_bound(scores, baseline, 0.0)

    f, q = scores.double(), baseline.double().exp()
    ratios = f.exp() / q
    others = (ratios.sum() - ratios.diagonal().sum()) / (count * (count - 1))
    wanted = 1 + (f.diagonal() - q.log()).mean() - others
    assert bound.item() == pytest.approx(wanted.item(), rel=1e-4, abs=1e-4)


@FEW
@given(SEEDS, st.integers(2, 6), st.floats(0.05, 0.95))
def test_between_them_the_bound_is_what_a_loop_computes(seed: int, count: int, alpha: float) -> None:
    scores, baseline = scores_of(seed, count)
    f, q = scores.double().exp().tolist(), baseline.double().exp().tolist()

    joint, marginal = 0.0, 0.0
    for j in range(count):
        everyone = alpha * sum(f[i][j] for i in range(count)) / count + (1 - alpha) * q[j]
        joint += math.log(f[j][j] / everyone) / count
        others = [f[i][j] for i in range(count) if i != j]
        mean = alpha * sum(others) / len(others) + (1 - alpha) * q[j]
        marginal += sum(x / mean for x in others) / len(others) / count

    assert interpolated_bound(scores, baseline, alpha).item() == pytest.approx(1 + joint - marginal, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_trained_critic_estimates_the_information_of_correlated_gaussians(alpha: float) -> None:
    """Of d independent pairs with correlation r the information is -d/2 log(1 - r²) nats: here 1.02."""
    torch.manual_seed(0)
    dimensions, correlation = 2, 0.8

    def pairs(count: int) -> tuple[Tensor, Tensor]:
        x, noise = torch.randn(2, count, dimensions)
        return x, correlation * x + math.sqrt(1 - correlation**2) * noise

    critics = Critics([1], [1], (dimensions, dimensions))
    optimiser = torch.optim.Adam(critics.parameters(), lr=5e-3, fused=True)
    for _ in range(250):
        optimiser.zero_grad()
        (-critics.bound(1, 1, *pairs(64), alpha)).backward()
        optimiser.step()
    with torch.no_grad():
        bound = np.mean([critics.bound(1, 1, *pairs(256), alpha).item() for _ in range(20)])

    known = -dimensions / 2 * math.log(1 - correlation**2)
    assert bound == pytest.approx(known, abs=0.2)


@pytest.mark.parametrize(("count", "alpha", "message"), [(1, 0.5, "at least 2"), (3, 1.5, "0 to 1")])
def test_bounds_that_are_none_are_refused(count: int, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interpolated_bound(*scores_of(0, count), alpha)


@FEW
@given(SEEDS, st.integers(1, 6), st.integers(1, 13))
def test_the_marginals_of_a_plan_are_the_layers_weights(seed: int, students: int, teachers: int) -> None:
    costs = np.random.default_rng(seed).normal(size=(students, teachers))

    plan = transport_plan(costs)

    assert (plan >= -1e-12).all()
    np.testing.assert_allclose(plan.sum(axis=1), 1 / students, atol=1e-9)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / teachers, atol=1e-9)
    assert (plan * costs).sum() <= costs.mean() + 1e-9  # equal shares are a plan, too


def test_a_plan_moves_layers_to_the_nearest() -> None:
    plan = transport_plan(np.array([[0.0, 0.0, 5.0, 5.0], [5.0, 5.0, 0.0, 0.0]]))

    np.testing.assert_allclose(plan, [[0.25, 0.25, 0, 0], [0, 0, 0.25, 0.25]], atol=1e-9)
    with pytest.raises(ValueError, match="not finite"):
        transport_plan(np.array([[math.nan]]))


def states(shape: Shape, seed: int = 0) -> list[Tensor]:
    source = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 5, shape.width, generator=source, requires_grad=True) for _ in range(shape.layers + 1)]


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).float()


@pytest.mark.parametrize("loss", [*HIDDEN_LOSSES, MI])
@pytest.mark.parametrize("mapping", [*LAYER_MAPPINGS, EMD])
def test_each_loss_reaches_student_and_projections_through_each_mapping(loss: str, mapping: str) -> None:
    torch.manual_seed(0)
    module = IntermediateLoss(loss, mapping, 0.5, NARROW, WIDE)
    ours, theirs = states(NARROW), [x.detach() for x in states(WIDE, 1)]

    value = module(ours, theirs, MASK)
    value.backward()

    assert value.shape == ()
    assert math.isfinite(value.item())
    compared = {i for i, _ in module.pairs}
    for layer, found in enumerate(ours):
        assert (found.grad is not None and bool(found.grad.any())) == (layer in compared)
        assert found.grad is None or not found.grad[MASK == 0].any()
    if mapping != EMD:  # whose plan leaves layers of the teacher out
        assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("loss", [*HIDDEN_LOSSES, MI])
def test_only_losses_between_equal_widths_have_projections(loss: str) -> None:
    same, other = (IntermediateLoss(loss, "uniform", 0.5, NARROW, shape) for shape in (NARROW, WIDE))

    names = {name.split(".")[0] for name, _ in other.named_parameters()}
    assert names == ({"critics"} if loss == MI else set() if loss == "relations" else {"projections"})
    assert loss == MI or not list(same.parameters())


def test_with_all_pairs_the_loss_is_that_of_the_plan() -> None:
    ours, theirs = states(NARROW), states(NARROW, 1)

    value = IntermediateLoss("mse", EMD, 0.5, NARROW, NARROW)(ours, theirs, MASK).item()

    costs = [[HIDDEN_LOSSES["mse"].function(ours[i], theirs[j], MASK).item() for j in (1, 2)] for i in (1, 2)]
    assert value == pytest.approx(min(costs[0][0] + costs[1][1], costs[0][1] + costs[1][0]) / 2, rel=1e-5)


@pytest.mark.parametrize(("loss", "mapping"), [("cka", "last"), ("mse", "middle")])
def test_unknown_names_are_refused(loss: str, mapping: str) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        IntermediateLoss(loss, mapping, 0.5, NARROW, WIDE)


TEXTS = ["weck mich um neun uhr", "licht aus", "weck mich um neun uhr", "spiel „musik“ ab!"]


def test_states_are_those_of_the_teacher_at_the_words(checkpoint: Path) -> None:
    teacher = load_checkpoint(checkpoint)
    source = TeacherStates(teacher)
    batch = collate([Example.of_text(teacher.encoder.encode(text)) for text in TEXTS], 0)
    with torch.inference_mode():
        hidden = teacher.model(batch.input_ids, batch.attention_mask, all_layers=True).hidden_states

    for _ in range(2):  # read, then kept
        found = source.aligned(teacher.encoder, TEXTS)

        assert len(found.states) == source.shape.layers + 1
        assert found.mask.sum() == sum(1 + len(teacher.encoder.encode(text).words) for text in TEXTS)
        for ours, theirs in zip(found.chosen(hidden), found.states, strict=True):
            there = found.mask.bool()
            torch.testing.assert_close(ours[there], theirs[there], atol=0.02, rtol=0.02)


def test_what_does_not_fit_is_read_again(checkpoint: Path) -> None:
    teacher = load_checkpoint(checkpoint)
    small, large = TeacherStates(teacher, limit=2000), TeacherStates(teacher)

    for _ in range(2):
        for ours, theirs in zip(
            small.aligned(teacher.encoder, TEXTS).states, large.aligned(teacher.encoder, TEXTS).states, strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)


def test_words_are_paired_between_tokenizers(checkpoint: Path, hub_bert: Path) -> None:
    """A BERT takes each mark for a word; the student's words have the states of the first of them."""
    student, wrapped = load_checkpoint(checkpoint), load_checkpoint(hub_bert)
    found = TeacherStates(wrapped).aligned(student.encoder, ["weck mich um 9:30"])

    assert found.positions[0].tolist() == [0, *student.encoder.encode("weck mich um 9:30").first_tokens]
    assert [tuple(x.shape) for x in found.states] == [(1, 5, 64)] * 3


def test_an_exported_student_has_states(student_folder: Path, checkpoint: Path) -> None:
    exported, original = TeacherStates.of_folder(student_folder), TeacherStates.of_folder(checkpoint)
    encoder = load_checkpoint(checkpoint).encoder

    last = [x.aligned(encoder, TEXTS).states[-1] for x in (exported, original)]
    assert (last[0] - last[1]).abs().mean() < 0.1  # int8


@pytest.mark.parametrize("kind", ["encoder", "nothing"])
def test_what_has_no_states_for_the_task_is_refused(kind: str, hub_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"hidden states; allowed: a checkpoint of training\.finetune"):
        TeacherStates.of_folder(hub_bert if kind == "encoder" else tmp_path)
