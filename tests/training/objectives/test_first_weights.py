from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from service.student.manifest import Labels
from training import finetune
from training.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.models.errors import CheckpointError
from training.models.student import StudentConfig, StudentModel
from training.objectives.first_weights import chosen_layers, reduced, reduced_table
from training.text.tokenizer import train_tokenizer

LABELS = Labels(domain=("alarm", "music"), intent=("play", "set", "stop"), slots=("O", "B-time", "I-time"))


def checkpoint_of(layers: int, width: int) -> Checkpoint:
    from service.student.tokenization import TextEncoder

    torch.manual_seed(0)
    labels = {head: list(getattr(LABELS, head)) for head in LABELS.heads}
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    config = StudentConfig(vocab_size=200, labels=labels, size=f"{layers} x {width}", **shape)
    tokenizer = train_tokenizer(["wecke mich um neun uhr", "spiele musik", "stopp den wecker"] * 5, 200)
    return Checkpoint(StudentModel(config).eval(), TextEncoder(tokenizer, 64), LABELS, {"locales": ["de-DE"]})


def test_a_student_of_the_same_width_takes_layers_tables_and_heads() -> None:
    teacher = checkpoint_of(6, 128)

    student = reduced(teacher, "xs", "2,5")

    weights, expected = student.model.state_dict(), teacher.model.state_dict()
    for name, value in weights.items():
        theirs = name.replace("blocks.0.", "blocks.1.").replace("blocks.1.", "blocks.4.", name.startswith("blocks.1."))
        assert torch.equal(value, expected[theirs]), name
    assert student.training["first_weights"] == {"layers": [2, 5], "of": 6}
    assert student.model.config.num_attention_heads == 4  # the teacher's, not that of the size


def test_all_layers_of_a_teacher_answer_as_the_teacher() -> None:
    teacher = checkpoint_of(2, 128)

    student = reduced(teacher, "xs", "")

    ids = torch.randint(200, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(student.model(ids).intent_logits, teacher.model(ids).intent_logits)


def test_layers_are_evenly_spaced_and_end_at_the_last() -> None:
    assert chosen_layers("", 6, 12) == [2, 4, 6, 8, 10, 12]
    assert chosen_layers("uniform", 2, 12) == [6, 12]
    assert chosen_layers("top", 3, 12) == [10, 11, 12]
    assert chosen_layers("12, 1", 2, 12) == [12, 1]


@pytest.mark.parametrize("text", ["1,2,3", "0,1", "1,13", "a,b", "last"])
def test_layers_that_are_not_there_are_refused(text: str) -> None:
    with pytest.raises(CheckpointError, match="allowed: 2 numbers from 1 to 12"):
        chosen_layers(text, 2, 12)


def test_a_narrower_student_takes_the_token_table_in_fewer_directions() -> None:
    teacher = checkpoint_of(3, 256)

    student = reduced(teacher, "xs", "")

    assert student.model.config.hidden_size == 128
    assert student.model.token_embeddings.weight.shape == (200, 128)
    assert student.labels == LABELS  # a description of the teacher; the student's heads are new
    assert student.training["first_weights"]["token_table"] == [256, 128]
    assert student.training["first_weights"]["blocks"] == "random"


def test_a_reduced_table_keeps_the_angles_of_a_table_of_that_rank() -> None:
    rng = np.random.default_rng(0)
    table = torch.tensor(rng.normal(size=(50, 8)) @ rng.normal(size=(8, 32)) + 3.0)

    found, kept = reduced_table(table, 8)

    assert kept == pytest.approx(1.0)
    centred = table - table.mean(dim=0)
    expected, angles = (torch.nn.functional.normalize(x.double(), dim=1) for x in (centred, found))
    np.testing.assert_allclose(angles @ angles.T, expected @ expected.T, atol=1e-5)
    assert float(found.std(dim=0).max() / found.std(dim=0).min()) < 10


def test_a_larger_student_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"--size s: 4 x 256 is larger than 6 x 128 "):
        reduced(checkpoint_of(6, 128), "s", "")


def test_a_run_starts_from_a_deeper_teachers_layers(
    sample: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher, out = tmp_path / "teacher", tmp_path / "out"
    deep = checkpoint_of(4, 128)
    save_checkpoint(teacher, deep.model, deep.encoder.tokenizer, deep.training)
    arguments = ["--data", str(sample), "--locales", "de-DE", "--epochs", "1", "--threads", "1", "--out", str(out)]

    assert finetune.main([*arguments, "--size", "xs", "--init", str(teacher), "--init-layers", "1,4"]) == 0

    student = load_checkpoint(out)
    assert student.model.config.num_hidden_layers == 2
    assert student.model.config.num_attention_heads == 4
    training = json.loads((out / "training.json").read_text())
    assert training["init"]["first_weights"] == {"layers": [1, 4], "of": 4}
    assert training["settings"]["init_layers"] == "1,4"
    assert student.model.config.size == "xs"


def test_layers_without_a_checkpoint_are_refused(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", str(sample), "--init-layers", "1,4", "--out", str(tmp_path / "out")]

    assert finetune.main(arguments) == 2

    assert "--init-layers: needs an --init" in capsys.readouterr().err
