"""Epochs within a budget of time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.student.manifest import Labels
from training.models.student import StudentConfig
from training.studies.budget import MAX_EPOCHS, MIN_SHARE, MIN_STEPS, TEACHER_SHARE, BudgetError, Plan, Work, plan
from training.studies.speed import Speed, measure, shape_of

speeds = st.builds(Speed, step=st.floats(1e-3, 1.0), text=st.floats(1e-5, 1e-2), scored=st.floats(1e-5, 1e-2))


@st.composite
def works(draw: st.DrawFn) -> Work:
    students = draw(st.dictionaries(st.sampled_from(["xs", "s", "m"]), speeds))
    exported = tuple(draw(st.lists(st.sampled_from(["", *students]), unique=True)))
    train, dev = draw(st.integers(100, 60_000)), draw(st.integers(1, 10_000))
    return Work(train, dev, 32, draw(speeds), students, draw(st.sampled_from([1, 4])), exported)


def seconds_of(work: Work, found: Plan) -> float:
    """The time of a plan, counted from its parts."""
    runs = [work.runs * work.training(work.students[name], n, found.share) for name, n in found.students.items()]
    teacher = work.training(work.teacher, found.teacher, found.share)
    return teacher + work.answers(found.views, found.share) + sum(runs) + work.exports()


@given(works(), st.floats(1, 100_000))
def test_a_plan_keeps_to_its_budget_or_is_refused_with_the_least(work: Work, seconds: float) -> None:
    try:
        found = plan(work, seconds)
    except BudgetError:
        assert work.least(MIN_SHARE) > seconds * 0.99
        return

    assert seconds_of(work, found) == pytest.approx(found.seconds)
    assert found.seconds <= seconds * (1 + 1e-9)
    assert found.students.keys() == work.students.keys()
    for run, epochs in [("teacher", found.teacher), *(("student", epochs) for epochs in found.students.values())]:
        assert epochs >= 1
        assert epochs <= MAX_EPOCHS[run] or (epochs - 1) * work.train / work.batch_size <= MIN_STEPS
    assert MIN_SHARE * 0.99 <= found.share <= 1


@given(works(), st.floats(1, 100_000))
def test_utterances_are_left_out_only_where_one_epoch_of_all_takes_too_long(work: Work, seconds: float) -> None:
    try:
        found = plan(work, seconds)
    except BudgetError:
        return

    assert (found.share < 1) == (work.least() > seconds)


def test_the_teacher_gets_about_half_and_cheap_students_more_epochs() -> None:
    students = {"m": Speed(0.2, 0.002, 0.004), "xs": Speed(0.02, 0.0002, 0.0004)}
    work = Work(50_000, 10_000, 32, Speed(0.4, 0.004, 0.008), students, exported=("", "m", "xs"))

    found = plan(work, 5 * 3600)

    assert work.training(work.teacher, found.teacher) <= TEACHER_SHARE * 5 * 3600
    assert work.training(work.teacher, found.teacher + 1) > TEACHER_SHARE * 5 * 3600
    assert found.students["xs"] > 2 * found.students["m"] > 4
    assert found.views == 4


def test_a_teacher_alone_gets_everything() -> None:
    work = Work(50_000, 10_000, 32, Speed(0.4, 0.004, 0.008), {}, exported=("",))

    found = plan(work, 2 * 3600)

    assert work.training(work.teacher, found.teacher + 1) + work.exports() > 2 * 3600 >= found.seconds


def test_too_few_minutes_are_refused_with_the_least() -> None:
    work = Work(50_000, 10_000, 32, Speed(0.4, 0.004, 0.008), {"m": Speed(0.2, 0.002, 0.004)}, exported=("m",))

    with pytest.raises(BudgetError, match=r"--minutes 1: .* take (\d+\.\d) minutes on this machine; allowed: at least"):
        plan(work, 60)


def test_a_speed_is_that_of_the_shape() -> None:
    labels, lengths = Labels(intent=("a", "b"), slots=("O", "B-t", "I-t")), [3, 4, 5, 6] * 20
    teacher = StudentConfig(200, 192, 4, 4, 384, size="4x192")

    small = measure(shape_of("xs", teacher), labels, lengths, 8)
    large = measure(StudentConfig(200, 384, 6, 6, 1536), labels, lengths, 8)

    assert 0 < small.step < large.step
    assert 0 < small.text < large.text


def test_shapes_are_layers_of_the_teacher_or_narrower_encoders() -> None:
    teacher = StudentConfig(200, 384, 12, 12, 1536, norm="post", size="l")

    layers, narrow = shape_of("m", teacher), shape_of("xs", teacher)

    assert (layers.num_hidden_layers, layers.num_attention_heads, layers.norm) == (6, 12, "post")
    assert (narrow.num_hidden_layers, narrow.hidden_size, narrow.vocab_size) == (2, 128, 200)
    with pytest.raises(
        ValueError, match=r"--size xl: 12 x 768 is larger than 12 x 384 \(l\), from which it should start"
    ):
        shape_of("xl", teacher)
