"""``python -m training.ladder --encoder`` on the sample data: a teacher, students, their exports and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from training import ladder
from training.data.files import read_json
from training.studies.ladder_recipe import Asked, ladder_recipe
from training.studies.layout import Layout
from training.studies.recipe import Recipe, RecipeError, read_recipe
from training.studies.stages import StageBuilder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, hub_bert: Path) -> Path:
    """A BERT of three layers that is wider than an xs."""
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    tokenizer, folder = Tokenizer.from_file(str(hub_bert / "tokenizer.json")), tmp_path_factory.mktemp("hub") / "bert"
    torch.manual_seed(0)
    shape = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 192}
    vocabulary = {"vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": 48}
    BertModel(BertConfig(**shape, **vocabulary)).save_pretrained(folder)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **special).save_pretrained(folder)
    return folder


def flags_of(encoder: Path, sample: Path, out: Path, *more: str) -> list[str]:
    data = ["--encoder", str(encoder), "--data", str(sample), "--locales", "de-DE", "--out", str(out)]
    return [*data, "--sizes", "xs", "--minutes", "20", *more]


def planned(encoder: Path, sample: Path, out: Path, **more: Any) -> Recipe:
    """The recipe that the command with these flags writes first."""
    asked = Asked(str(encoder), str(sample), ("xs",), 20, locales="de-DE", **more)
    return read_recipe(ladder_recipe(asked, out / "recipe.toml", threads=1))


def short(file: Path) -> None:
    """Edit a recipe: two epochs a run."""
    lines = file.read_text().splitlines()
    file.write_text("\n".join("epochs = 2" if line.startswith("epochs") else line for line in lines))


def test_a_ladder_is_trained_exported_compared_and_continued(
    encoder: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ladder"
    (tmp_path / "text.txt").write_text("weck mich um neun\n")
    planned(encoder, sample, out, texts=str(tmp_path / "text.txt"), tokens=250)
    short(out / "recipe.toml")  # also shows that an interrupted ladder keeps its recipe
    vocabulary = ["--texts", str(tmp_path / "text.txt"), "--tokens", "250"]
    command = flags_of(encoder, sample, out, *vocabulary, "--track", "tensorboard")

    assert ladder.main([*command, "--until", "runs/3x192"]) == 0
    assert not (out / "ladder.md").exists()
    capsys.readouterr()
    assert ladder.main(command) == 0
    done = json.loads(capsys.readouterr().out.splitlines()[-1])["done_now"]
    assert done == 6  # the student, its export, two answers, utterances and the majority class

    report: dict[str, Any] = json.loads((out / "ladder.json").read_text())
    assert report["runs"].keys() == {"3x192", "xs"}
    adopted = read_json(out / "runs" / "encoder" / "training.json")
    assert (adopted["tokens"], adopted["settings"]["texts"]) == (250, "text.txt")
    student = read_json(out / "runs" / "xs" / "training.json")
    assert student["settings"]["epochs"] == 2
    assert student["settings"]["teacher"] == "3x192"
    assert student["init"]["first_weights"]["token_table"] == [192, 128]
    exported = report["students"]["xs"]
    assert exported["bytes"] == sum(
        (out / "students" / "xs" / x).stat().st_size for x in ("model.onnx", "tokenizer.json")
    )
    assert exported["quality"]["mean"]["intent_accuracy"] > 0
    assert report["majority"]["mean"]["exact_match"][0] < 50
    text = (out / "ladder.md").read_text()
    for line in (
        "| 3x192, the teacher |",
        "| majority class of train |",
        "## Exported students",
        "Planned for 20 minutes",
    ):
        assert line in text
    assert list((out / "runs" / "xs" / "tensorboard").glob("events.*"))
    assert (out / "logits").is_dir()

    capsys.readouterr()
    assert ladder.main(command) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["done_now"] == 0
    assert ladder.main(["--recipe", str(out / "recipe.toml"), "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["done_now"] == 0


def test_another_ladder_in_the_same_folder_is_refused(encoder: Path, sample: Path, tmp_path: Path) -> None:
    planned(encoder, sample, tmp_path)

    expected = "recipe.toml: was written with tokens 16000, now 200; controls False, now True; choose another --out"
    with pytest.raises(RecipeError, match=expected):
        planned(encoder, sample, tmp_path, tokens=200, controls=True)


def test_controls_have_the_same_tokens_epochs_and_texts(encoder: Path, sample: Path, tmp_path: Path) -> None:
    recipe = planned(encoder, sample, tmp_path, controls=True)

    runs = {name: run.settings for name, run in recipe.runs.items()}
    assert [*runs] == ["encoder", "3x192", "xs", "xs-random", "xs-first", "xs-random-distilled"]
    assert len({runs[name]["epochs"] for name in runs if name.startswith("xs")}) == 1
    assert all(runs[f"xs-random{end}"]["tokenizer"] == "encoder" for end in ("", "-distilled"))
    assert [name for name in runs if "teacher" in runs[name]] == ["xs", "xs-random-distilled"]
    assert [name for name in runs if runs[name].get("init") == "3x192"] == ["xs", "xs-first"]
    assert recipe.comparisons[1].baseline == "xs-random"
    stages = {stage.name: stage for stage in StageBuilder(recipe, Layout(tmp_path)).stages()}
    assert set(stages["runs/xs-random-distilled"].needs) == {"runs/encoder", "runs/3x192"}
    assert f"--tokenizer={tmp_path / 'runs' / 'encoder'}" in stages["runs/xs-random"].work


def test_the_encoder_itself_is_exported_where_its_size_is_asked_for(
    sample: Path, hub_bert: Path, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    BertModel(BertConfig(300, 128, 2, 2, 512, max_position_embeddings=48)).save_pretrained(tmp_path)
    BertTokenizerFast.from_pretrained(hub_bert).save_pretrained(tmp_path)

    recipe = planned(tmp_path, sample, tmp_path)

    assert [*recipe.runs] == ["encoder", "xs"]
    assert recipe.export.runs == ("xs",)
    assert recipe.runs["xs"].title == "xs, the teacher"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ["--sizes", "xs,m"],
            "--size m: 6 x 384 is larger than 3 x 192 (3x192), from which it should start",
        ),
        (["--minutes", "0.0001"], "--minutes 0.0001: one epoch each on 2% of the training utterances"),
        (["--locales", "pt-PT"], "pt-PT"),
        (["--encoder", "/nowhere"], "/nowhere: no such folder"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    encoder: Path, sample: Path, tmp_path: Path, change: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ladder.main(flags_of(encoder, sample, tmp_path / "out", *change)) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoder", "x", "--sizes", "xs"], "--encoder: needs --data, --minutes"),
        (["--encoder", "x", "--recipe", "y"], "--recipe and --encoder exclude each other"),
        (["--sizes", "xs", "--recipe", "y"], "--sizes: needs --encoder"),
        (["--encoder", "x", "--sizes", "xs,huge"], "argument --sizes: huge; allowed: xxs, xs, s, m, l, xl, xxl"),
        (["--encoder", "x", "--minutes", "-1"], "argument --minutes: -1 is out of range; allowed: more than 0"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ladder.main([*flags, "--out", "nowhere"])

    assert message in capsys.readouterr().err
