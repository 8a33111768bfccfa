from __future__ import annotations

import pytest
import torch

from service.student.manifest import Labels
from training.models.batches import IGNORED, Example, collate, length_buckets
from training.models.sizes import SIZES
from training.models.student import StudentConfig, StudentModel
from training.objectives.multitask import multitask_loss, word_dropout
from training.runs.loop import rate_at

LABELS = Labels(domain=("a", "b"), intent=("a_x", "a_y", "b_z"), slots=("O", "B-t", "I-t"))


def tiny(**kwargs: object) -> StudentModel:
    torch.manual_seed(0)
    return StudentModel(StudentConfig.of_size("xs", LABELS, vocab_size=50, **kwargs)).eval()


@pytest.mark.parametrize(("size", "millions"), [("xs", 0.4), ("s", 3.2), ("m", 10.6), ("l", 21.3)])
def test_sizes_have_the_parameters_that_the_table_promises(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = StudentModel(StudentConfig.of_size(size, LABELS))

    assert model.count_parameters()[1] / 1e6 == pytest.approx(millions, abs=0.06)


def test_outputs_have_the_promised_shapes() -> None:
    output = tiny()(torch.randint(4, 50, (3, 7)))

    assert output.domain_logits.shape == (3, 2)
    assert output.intent_logits.shape == (3, 3)
    assert output.slot_logits.shape == (3, 7, 3)
    assert output.last_hidden_state.shape == (3, 7, 128)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_padding_does_not_change_an_answer(activation: str) -> None:
    model = tiny(activation=activation)
    short, long = [2, 5, 6, 7], [2, 8, 9, 10, 11, 12, 13]
    batch = collate([Example(ids, IGNORED, IGNORED, [IGNORED] * len(ids)) for ids in (short, long)], pad_id=0)

    together = model(batch.input_ids, batch.attention_mask)
    alone = model(torch.tensor([short]))

    torch.testing.assert_close(together.intent_logits[:1], alone.intent_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.slot_logits[:1, : len(short)], alone.slot_logits, atol=1e-5, rtol=1e-4)


def test_a_saved_student_loads_as_it_was(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, model, ids = tmp_path_factory.mktemp("saved"), tiny(), torch.tensor([[2, 5, 6]])
    model.save_pretrained(folder)

    loaded = StudentModel.from_pretrained(folder).eval()

    assert loaded.config.labels == model.config.labels
    torch.testing.assert_close(loaded(ids).intent_logits, model(ids).intent_logits)


def test_heads_are_optional() -> None:
    model = StudentModel(StudentConfig.of_size("xs", Labels(domain=("a", "b")), vocab_size=50))

    output = model(torch.tensor([[2, 5]]))

    assert output.domain_logits is not None
    assert output.intent_logits is None
    assert output.slot_logits is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"size": "huge"}, "allowed: xxs, xs, s, m"), ({"size": "xs", "activation": "tanh"}, "allowed: gelu, relu")],
)
def test_unknown_choices_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig.of_size(labels=LABELS, **arguments)  # type: ignore[arg-type]


def test_loss_ignores_missing_labels_and_weighs_slots() -> None:
    model = tiny()
    labelled = Example([2, 5, 6], 0, 1, [IGNORED, 1, 0])
    unlabelled = Example([2, 5, 6], IGNORED, IGNORED, [IGNORED] * 3)
    one, both = collate([labelled], 0), collate([labelled, unlabelled], 0)

    losses = [
        multitask_loss(model(b.input_ids, b.attention_mask), b, weight, 0.0).item()
        for b, weight in ((one, 1.0), (both, 1.0), (one, 3.0), (one, 0.0))
    ]

    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert losses[2] - losses[3] == pytest.approx(3 * (losses[0] - losses[3]), rel=1e-4)


def test_hidden_tokens_spare_padding_and_the_first_token() -> None:
    batch = collate([Example([2, *range(5, 25)], 0, 0, [IGNORED] * 21), Example([2, 9], 0, 0, [IGNORED] * 2)], 0)

    hidden = word_dropout(batch, 1.0, unknown_id=1, protected_id=2)

    assert hidden[0].tolist() == [2] + [1] * 20
    assert hidden[1].tolist() == [2, 1] + [0] * 19
    assert torch.equal(word_dropout(batch, 0.0, 1, 2), batch.input_ids)


def test_the_rate_warms_up_then_falls_to_zero() -> None:
    rates = [rate_at(step, 200, 1.0) for step in range(201)]

    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[200] == 0


def test_buckets_hold_each_index_once_and_similar_lengths() -> None:
    import numpy as np

    lengths = [i % 40 for i in range(1000)]

    buckets = length_buckets(lengths, 50, np.random.default_rng(0))

    assert sorted(np.concatenate(buckets).tolist()) == list(range(1000))
    assert max(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in buckets) <= 5


def test_the_size_table_names_every_size() -> None:
    assert list(SIZES) == ["xxs", "xs", "s", "m", "l", "xl", "xxl"]


def test_the_masked_head_reads_the_table_of_tokens() -> None:
    model, ids = tiny(masked=True), torch.tensor([[2, 5, 6, 7]])

    output = model(ids, all_layers=True)
    logits = model.token_logits(output.last_hidden_state[0, 1:3])

    assert logits.shape == (2, 50)
    assert len(output.hidden_states) == 1 + 2
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert model(ids).hidden_states is None
    with pytest.raises(ValueError, match="no masked-language head"):
        tiny().token_logits(output.last_hidden_state[0])
