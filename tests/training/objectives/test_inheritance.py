from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.models.student import StudentConfig, StudentModel
from training.objectives.inheritance import Stream, _observe, _stream, inherit_layers

LABELS = {"domain": ["a", "b"], "intent": ["a_x", "a_y", "b_z"], "slots": ["O", "B-t"]}


def model(width: int, layers: int, heads: int, seed: int = 0, spread: float = 0.15, **kwargs: Any) -> StudentModel:
    """A model whose layers all matter: weights wider than at the start of training, norms that are not the identity."""
    torch.manual_seed(seed)
    kwargs = {"intermediate_size": 4 * width, "vocab_size": 60, "labels": LABELS, "masked": True} | kwargs
    made = StudentModel(
        StudentConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, **kwargs)
    ).eval()
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "norm" in name:
                weight.copy_(0.2 * torch.randn_like(weight) + float(name.endswith("weight")))
            else:
                weight.normal_(std=spread)
    return made


def ids(rows: int = 16, tokens: int = 12) -> Tensor:
    return torch.randint(60, (rows, tokens), generator=torch.Generator().manual_seed(9))


def hidden(of: StudentModel) -> Tensor:
    with torch.no_grad():
        states: Tensor = of(ids()).last_hidden_state
    return states


def stream_of(teacher: StudentModel, layers: list[int], width: int) -> Stream:
    with torch.no_grad():
        return _stream(list(_observe(teacher, layers, None).moments.values()), width)


def flat_teacher() -> tuple[StudentModel, int]:
    """A teacher, 32 wide, whose centred states lie in 15 dimensions and that uses two of its four heads, half its
    neurons: all that a student 16 wide can hold."""
    teacher = model(32, 2, 4)
    around = torch.linalg.qr(torch.cat([torch.ones(32, 1), torch.randn(32, 15)], dim=1)).Q
    span = around @ around.T  # the direction of ones, which no norm sees, and 15 more
    with torch.no_grad():
        for table in (teacher.token_embeddings, teacher.positions):
            table.weight.copy_(table.weight @ span)
        for block in teacher.blocks:
            for writer in (block.attention_out, block.down):
                writer.weight.copy_(span @ writer.weight)
                writer.bias.copy_(span @ writer.bias)
            block.attention_out.weight[:, 8:24] = 0  # heads 1 and 2
            block.down.weight[:, ::2] = 0
        teacher.norm.weight.fill_(1.5)  # unequal gains would lead out of the span
        teacher.norm.bias.copy_(span @ teacher.norm.bias)
    return teacher, 16


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("mapping", ["uniform", "first", "top"])
def test_a_student_of_the_same_shape_becomes_its_teacher(activation: str, mapping: str) -> None:
    teacher = model(32, 3, 4, activation=activation)
    student = model(32, 3, 4, seed=1, activation=activation)

    done = inherit_layers(teacher, student, mapping)

    assert done["kept"] == pytest.approx(1)
    torch.testing.assert_close(hidden(student), hidden(teacher), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        student.token_logits(hidden(student)), teacher.token_logits(hidden(teacher)), atol=1e-4, rtol=1e-4
    )


def test_layers_are_copied_as_mapped_and_the_task_heads_stay() -> None:
    teacher, student = model(32, 4, 4), model(32, 2, 4, seed=1)
    heads = copy.deepcopy(student.heads.state_dict())

    done = inherit_layers(teacher, student)

    assert done["layers"] == [[1, 2], [2, 4]]
    assert done["width"] == [32, 32]
    for ours, theirs in ((0, 1), (1, 3)):
        for name, weight in student.blocks[ours].state_dict().items():
            torch.testing.assert_close(weight, teacher.blocks[theirs].state_dict()[name], msg=name)
    for name, weight in student.heads.state_dict().items():
        assert torch.equal(weight, heads[name])


@pytest.mark.parametrize("mapping", ["last", "embeddings_and_last"])
def test_layers_that_the_mapping_leaves_out_stay(mapping: str) -> None:
    teacher, student = model(32, 3, 4), model(16, 2, 2, seed=1)
    before = copy.deepcopy(student.blocks.state_dict())

    inherit_layers(teacher, student, mapping)

    after = student.blocks.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("0."))
    assert not any(torch.equal(after[name], before[name]) for name in before if name.startswith("1."))


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_narrower_student_is_exact_where_the_teacher_needs_no_more(activation: str) -> None:
    teacher, width = flat_teacher()
    for block in teacher.blocks:
        block.activation = {"gelu": functional.gelu, "relu": functional.relu}[activation]
    teacher.config.activation = activation
    student = model(width, 2, 2, seed=1, activation=activation)

    done = inherit_layers(teacher, student)

    assert done["kept"] == pytest.approx(1, abs=1e-5)
    wanted = stream_of(teacher, [0, 1], width).states(hidden(teacher)).float()
    torch.testing.assert_close(hidden(student), wanted, atol=1e-4, rtol=0)


def test_fewer_neurons_at_the_same_width_are_exact_where_the_others_are_idle() -> None:
    teacher, student = model(32, 2, 4), model(32, 2, 4, seed=1, intermediate_size=64)
    with torch.no_grad():
        for block in teacher.blocks:
            block.down.weight[:, 1::2] = 0

    inherit_layers(teacher, student)

    torch.testing.assert_close(hidden(student), hidden(teacher), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("layers", "mapping"), [(3, "uniform"), (2, "uniform"), (2, "first")])
def test_a_narrower_student_starts_nearer_to_its_teacher_than_chance(layers: int, mapping: str) -> None:
    teacher = model(32, 3, 4, spread=0.05)  # each layer adds a little, so that one may be left out
    student = model(16, layers, 2, seed=1)
    teacher.norm.weight.data.fill_(1.0)
    done = inherit_layers(teacher, student, mapping)
    stream = stream_of(teacher, [theirs - 1 for _, theirs in done["layers"]], 16)
    wanted = stream.states(hidden(teacher)).float()

    chance = max(
        functional.cosine_similarity(hidden(model(16, layers, 2, seed=s)), wanted, dim=-1).mean() for s in range(5)
    )
    found = functional.cosine_similarity(hidden(student), wanted, dim=-1).mean()

    assert 0.5 < done["kept"] < 1
    assert found > chance + 0.2


def test_the_masked_head_of_a_narrower_student_is_nearer_than_chance() -> None:
    teacher, student = model(32, 2, 4), model(16, 2, 2, seed=1)
    wanted = teacher.token_logits(hidden(teacher))
    chance = student.token_logits(hidden(student))

    inherit_layers(teacher, student, probe=ids())

    def likeness(logits: Tensor) -> float:
        return functional.cosine_similarity(logits, wanted, dim=-1).mean().item()

    found = student.token_logits(hidden(student))
    assert likeness(found) > likeness(chance) + 0.2
    assert (found - wanted).square().mean() < wanted.square().mean()


def test_the_masked_head_is_left_out_where_one_has_none() -> None:
    for one, other in ((True, False), (False, True), (False, False)):
        student = model(16, 1, 2, masked=other)
        inherit_layers(model(32, 1, 4, masked=one), student)
        assert (student.masked is not None) == other


def test_the_basis_is_orthonormal_and_maps_ones_to_ones() -> None:
    teacher, _ = flat_teacher()  # states in 15 dimensions, so that most of 24 directions are arbitrary
    basis = stream_of(teacher, [0, 1], 24).basis

    torch.testing.assert_close(basis.T @ basis, torch.eye(24, dtype=basis.dtype))
    torch.testing.assert_close(basis.sum(dim=1), torch.full((32,), (24 / 32) ** 0.5, dtype=basis.dtype))
    states = torch.randn(5, 32, dtype=basis.dtype)
    centred = states - states.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(centred @ basis, states @ basis - (states @ basis).mean(dim=-1, keepdim=True))


def test_the_teacher_stays_as_it_was_and_the_result_is_the_same_twice() -> None:
    teacher = model(32, 2, 4).train()
    before = copy.deepcopy(teacher.state_dict())
    students = [model(16, 2, 2, seed=seed, labels={}) for seed in (1, 2)]

    done = [inherit_layers(teacher, student) for student in students]

    assert teacher.training
    pickle.dumps(teacher)  # impossible with a local hook left on one of its modules
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.state_dict().items())
    assert done[0] == done[1]
    for name, weight in students[0].state_dict().items():
        torch.testing.assert_close(weight, students[1].state_dict()[name], msg=name)


def test_a_shorter_student_gets_the_first_positions() -> None:
    teacher, student = model(32, 1, 4), model(32, 1, 4, seed=1, max_position_embeddings=16)

    inherit_layers(teacher, student)

    assert torch.equal(student.positions.weight, teacher.positions.weight[:16])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"width": 48, "heads": 6}, "hidden_size 48 of the student is more"),
        ({"layers": 3}, "num_hidden_layers 3"),
        ({"intermediate_size": 999}, "intermediate_size 999"),
        ({"max_position_embeddings": 65}, "max_position_embeddings 65"),
        ({"vocab_size": 61}, "vocab_size 61 of the student is not"),
        ({"activation": "relu"}, "activation relu"),
        ({"heads": 2}, "heads of 16 units"),
    ],
)
def test_a_student_that_is_no_part_of_its_teacher_is_refused(changed: dict[str, Any], message: str) -> None:
    shape: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4} | changed
    student = model(**shape)
    before = copy.deepcopy(student.state_dict())

    with pytest.raises(ValueError, match=message):
        inherit_layers(model(32, 2, 4), student)

    assert all(torch.equal(weight, before[name]) for name, weight in student.state_dict().items())


def test_an_unknown_mapping_is_refused() -> None:
    with pytest.raises(ValueError, match="mapping 'emd'; allowed: last, embeddings_and_last, uniform, first, top"):
        inherit_layers(model(32, 2, 4), model(16, 2, 2), "emd")
