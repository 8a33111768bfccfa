"""Attention's bias by relative position: what it computes, its first weights, and where it comes from in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.graph import SESSION, export_fp32
from export.quantization import quantisable_nodes, quantise_int8
from service.student.manifest import Labels
from service.student.predictor import OUTPUT_OF_HEAD, open_session
from training import distill, finetune, pretrain
from training.data import datasets
from training.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.models.errors import CheckpointError
from training.models.student import LOCALITY, MAX_OFFSET, NORMS, StudentConfig, StudentModel
from training.objectives.first_weights import reduced, with_position_bias

LABELS = Labels(domain=("a", "b"), intent=("a_x", "a_y", "b_z"), slots=("O", "B-t", "I-t"))
ALONE = 1e4  # a bias beside which no score counts


def model_of(layers: int = 2, heads: int = 2, width: int = 64, **kwargs: Any) -> StudentModel:
    torch.manual_seed(0)
    shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width, "intermediate_size": 64}
    labels = {head: list(getattr(LABELS, head)) for head in LABELS.heads}
    config = StudentConfig(**{"vocab_size": 50, "labels": labels, "position_bias": True, **shape, **kwargs})
    model = StudentModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "position_bias" not in name and "norm" not in name:
                weight.normal_(std=0.2)
    return model.eval()


def with_random_bias(model: StudentModel) -> StudentModel:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "position_bias" in name:
                weight.normal_()
    return model


def biases(model: StudentModel) -> list[Tensor]:
    """The weights of each layer, [offsets, heads]."""
    return [value for name, value in model.state_dict().items() if "position_bias" in name]


def states(model: StudentModel, ids: list[int]) -> Tensor:
    with torch.no_grad():
        hidden: Tensor = model(torch.tensor([ids])).last_hidden_state[0]
    return hidden


@pytest.mark.parametrize(("heads", "local"), [(1, 1), (2, 1), (4, 1), (12, 3)])
def test_first_weights_prefer_neighbours_in_some_heads(heads: int, local: int) -> None:
    for weight in biases(model_of(heads=heads, width=12 * heads)):
        places = weight.nonzero().tolist()
        previous, following = [MAX_OFFSET - 1] * local, [MAX_OFFSET + 1] * local
        expected = sorted(zip(previous + following, range(heads), strict=False))
        assert sorted(map(tuple, places)) == expected
        assert set(weight[weight != 0].tolist()) == {LOCALITY}


@settings(max_examples=40)
@given(st.integers(-3, 3), st.integers(4, 20), st.integers(0, 23))
def test_a_head_reads_the_token_at_its_offset(offset: int, place: int, changed: int) -> None:
    model, ids = model_of(layers=1), list(range(10, 34))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "position_bias" in name:
                weight[MAX_OFFSET + offset] = ALONE
    other = [*ids[:changed], 3, *ids[changed + 1 :]]

    differs = not torch.equal(states(model, ids)[place], states(model, other)[place])

    assert differs == (changed in (place, place + offset))


def test_distant_tokens_share_a_bias() -> None:
    model, ids, place = model_of(layers=1), list(range(10, 50)), 30
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "position_bias" in name:
                weight[0] = ALONE

    read = []
    for changed in range(len(ids)):
        other = [*ids[:changed], 3, *ids[changed + 1 :]]
        if not torch.equal(states(model, ids)[place], states(model, other)[place]):
            read.append(changed)

    assert read == [*range(place - MAX_OFFSET + 1), place]


@settings(max_examples=40)
@given(st.integers(1, 8), st.integers(1, 8))
def test_neither_padding_nor_the_batch_axis_changes_an_answer(length: int, padding: int) -> None:
    model, ids = with_random_bias(model_of()), list(range(5, 5 + length))
    mask = torch.tensor([[1] * length + [0] * padding])

    with torch.no_grad():
        padded = model(torch.tensor([ids + [0] * padding]), mask)
        alone, without_axis = model(torch.tensor([ids])), model(torch.tensor(ids))

    torch.testing.assert_close(padded.slot_logits[0, :length], alone.slot_logits[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded.intent_logits, alone.intent_logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(without_axis.slot_logits, alone.slot_logits[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_exported_graph_computes_the_same_at_every_length(norm: str, tmp_path: Path) -> None:
    model = with_random_bias(model_of(norm=norm, max_position_embeddings=40))
    export_fp32(model, tmp_path / "fp32.onnx")
    session = open_session(tmp_path / "fp32.onnx", SESSION)

    for length in range(1, 41):
        ids = torch.arange(length) + 5
        with torch.no_grad():
            expected = model(ids)
        found = session.run(list(OUTPUT_OF_HEAD.values()), {"input_ids": ids.numpy()})
        for name, logits in zip(OUTPUT_OF_HEAD.values(), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(logits), getattr(expected, name), atol=1e-4, rtol=1e-4)


def test_int8_leaves_the_bias_in_fp32(tmp_path: Path) -> None:
    with_bias, without = with_random_bias(model_of()), model_of(position_bias=False)
    export_fp32(with_bias, tmp_path / "bias.onnx")
    export_fp32(without, tmp_path / "plain.onnx")
    quantise_int8(tmp_path / "bias.onnx", tmp_path / "int8.onnx")

    assert quantisable_nodes(tmp_path / "bias.onnx") == quantisable_nodes(tmp_path / "plain.onnx")
    ids = torch.arange(12) + 5
    with torch.no_grad():
        expected = with_bias(ids).slot_logits
    [found] = open_session(tmp_path / "int8.onnx", SESSION).run(["slot_logits"], {"input_ids": ids.numpy()})
    spread = float(expected.std())
    assert float((torch.from_numpy(found) - expected).abs().mean()) < 0.1 * spread


@pytest.fixture
def without_bias(checkpoint: Path) -> Checkpoint:
    return load_checkpoint(checkpoint)


def test_a_bias_that_is_added_changes_no_answer(without_bias: Checkpoint) -> None:
    added = with_position_bias(without_bias, True)

    ids = torch.arange(20)[None] + 5
    with torch.no_grad():
        expected, found = without_bias.model(ids), added.model(ids)
    assert added.model.config.position_bias
    torch.testing.assert_close(found.slot_logits, expected.slot_logits, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.intent_logits, expected.intent_logits, atol=1e-6, rtol=1e-6)
    assert with_position_bias(added, True) is added
    assert with_position_bias(added, None) is added


def test_a_checkpoint_of_before_loads(without_bias: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "old", without_bias.model, without_bias.encoder.tokenizer, without_bias.training)
    config = json.loads((tmp_path / "old" / "config.json").read_text())
    del config["position_bias"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))

    loaded = load_checkpoint(tmp_path / "old").model

    assert not loaded.config.position_bias
    assert loaded.state_dict().keys() == without_bias.model.state_dict().keys()


def test_a_student_takes_the_biases_of_its_layers(without_bias: Checkpoint) -> None:
    deep = with_random_bias(model_of(layers=4, width=128, size="deep"))
    teacher = Checkpoint(deep, without_bias.encoder, LABELS, {})

    student = reduced(teacher, "xs", "1,4")

    assert torch.equal(torch.stack(biases(student.model)), torch.stack(biases(deep))[[0, 3]])


@pytest.mark.parametrize(("wanted", "expected"), [(None, True), (True, True), (False, False)])
def test_random_blocks_begin_with_the_prior(without_bias: Checkpoint, wanted: bool | None, expected: bool) -> None:
    teacher = Checkpoint(with_random_bias(model_of(width=256)), without_bias.encoder, LABELS, {})

    student = reduced(teacher, "xs", "", "", wanted).model

    assert student.config.position_bias is expected
    assert all(weight.max() == LOCALITY for weight in biases(student))


def test_a_bias_is_not_removed_and_not_added_to_another_architecture(without_bias: Checkpoint, hub_bert: Path) -> None:
    with pytest.raises(CheckpointError, match="--no-position-bias: the checkpoint to start from has one"):
        with_position_bias(with_position_bias(without_bias, True), False)
    with pytest.raises(CheckpointError, match="keeps its own architecture \\(bert, 2 x 64\\)"):
        with_position_bias(load_checkpoint(hub_bert), True)
    assert not with_position_bias(without_bias, False).model.config.position_bias


def test_fine_tuning_adds_a_bias_and_keeps_one(sample: Path, checkpoint: Path, tmp_path: Path) -> None:
    data = ["--data", str(sample), "--locales", "de-DE", "--epochs", "1", "--threads", "1"]

    for name, more in (("added", ["--init", str(checkpoint), "--position-bias"]), ("kept", ["--init", "added"])):
        more = [str(tmp_path / "added") if value == "added" else value for value in more]
        assert finetune.main([*data, *more, "--out", str(tmp_path / name)]) == 0

    added, kept = (load_checkpoint(tmp_path / name) for name in ("added", "kept"))
    assert added.training["settings"]["position_bias"] is kept.training["settings"]["position_bias"] is True
    for trained in (added.model, kept.model):
        assert all(weight.abs().max() > 0 for weight in biases(trained))


@pytest.mark.parametrize(("flag", "expected"), [([], LOCALITY), (["--no-position-bias"], None)])
def test_a_distilled_student_has_its_teachers_kind_of_positions(
    checkpoint: Path, sample: Path, tmp_path: Path, flag: list[str], expected: float | None
) -> None:
    teacher, text = with_position_bias(load_checkpoint(checkpoint), True), tmp_path / "text.txt"
    save_checkpoint(tmp_path / "teacher", teacher.model, teacher.encoder.tokenizer, teacher.training)
    text.write_text("\n".join(u.text for u in datasets.load(str(sample), ["de-DE"]).utterances))
    command = ["--teacher", str(tmp_path / "teacher"), "--corpus", str(text), "--size", "xs", "--threads", "1"]
    states = ["--masked-share", "0", "--hidden-loss", "mse", "--steps", "1", "--learning-rate", "1e-6"]

    assert distill.main([*command, *states, *flag, "--out", str(tmp_path / "student")]) == 0

    found = [weight.max() for weight in biases(load_checkpoint(tmp_path / "student").model)]
    assert found == ([] if expected is None else [pytest.approx(expected, abs=1e-4)] * 2)


def test_pretraining_begins_with_the_prior_and_adds_zeros(sample: Path, checkpoint: Path, tmp_path: Path) -> None:
    text = ["--data", str(sample), "--locales", "de-DE", "--steps", "1", "--learning-rate", "1e-6", "--threads", "1"]

    for name, more in (("new", ["--size", "xs", "--vocabulary", "300"]), ("added", ["--init", str(checkpoint)])):
        assert pretrain.main([*text, *more, "--position-bias", "--out", str(tmp_path / name)]) == 0

    new, added = (biases(load_checkpoint(tmp_path / name).model) for name in ("new", "added"))
    assert all(weight.max() == pytest.approx(LOCALITY, abs=1e-4) for weight in new)
    assert all(weight.abs().max() == pytest.approx(0, abs=1e-4) for weight in added)
