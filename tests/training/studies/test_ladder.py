"""``python -m training.ladder`` on the sample data, and what it refuses."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from training.ladder import main
from training.studies.layout import Layout
from training.studies.recipe import read_recipe
from training.studies.stages import StageBuilder

RECIPES = sorted((Path(__file__).parents[3] / "training" / "recipes").glob("*.toml"))
SOURCES = ("tatoeba", "common_voice", "xed", "voice_prompts", "thorsten", "gerdracor", "commonvoice_fr-libretheatre")
RECIPE = """
title = "Two students"
locales = ["de-DE", "fr-FR"]
[tokenizer]
corpus = "out_of_scope"
vocabulary = 600
[pretrain]
corpus = "out_of_scope"
data = true
[finetune]
size = "xs"
epochs = 1
[runs.distilled]
title = "taught"
init = "encoder"
teacher = "scratch"
[runs.encoder]
command = "pretrain"
size = "xs"
steps = 3
batch_tokens = 256
[runs.scratch]
[[comparisons]]
title = "From scratch or taught"
baseline = "scratch"
runs = ["distilled"]
"""


def run(
    recipe: Path, sample: Path, out: Path, capsys: pytest.CaptureFixture[str], *more: str
) -> tuple[int, dict[str, Any], str]:
    flags = ["--recipe", str(recipe), "--data", str(sample), "--generic", str(sample / "out_of_scope")]
    code = main([*flags, "--out", str(out), *more])
    output = capsys.readouterr()
    return code, json.loads(output.out.splitlines()[-1]) if code == 0 else {}, output.err


def test_runs_are_made_of_each_other_compared_and_skipped_when_done(
    sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "recipe.toml", tmp_path / "out"
    recipe.write_text(RECIPE)

    code, summary, _ = run(recipe, sample, out, capsys)

    assert code == 0
    assert summary["done_now"] == 8  # tokenizer, three runs, what is asked, majority class, two answers
    report = json.loads((out / "ladder.json").read_text())
    taught = json.loads((out / "runs" / "distilled" / "training.json").read_text())
    assert (taught["settings"]["init"], taught["settings"]["teacher"]) == ("encoder", "scratch")
    scores = {name: run["mean"]["exact_match"][0] for name, run in report["runs"].items()}
    assert scores.keys() == {"scratch", "distilled"}
    for name, found in scores.items():
        dev = json.loads((out / "runs" / name / "training.json").read_text())["dev"]
        assert found == pytest.approx(dev["mean"]["exact_match"], abs=2e-3)
    change = report["tables"][0]["changes"]["distilled"]["exact_match"]
    assert change[0] == pytest.approx(scores["distilled"] - scores["scratch"], abs=2e-3)
    assert change[1] <= change[0] <= change[2]
    assert f"| taught | {scores['distilled']:.1f} |" in (out / "ladder.md").read_text()

    assert run(recipe, sample, out, capsys)[1]["done_now"] == 0

    (out / "results" / "answers" / "distilled.json.gz").unlink()
    assert run(recipe, sample, out, capsys, "--report")[1]["exact_match"].keys() == {"scratch"}
    assert "Not done yet: distilled." in (out / "ladder.md").read_text()
    (out / "results" / "answers" / "scratch.json.gz").unlink()
    assert "no compared run is done" in run(recipe, sample, out, capsys, "--report")[2]

    recipe.write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    code, _, error = run(recipe, sample, out, capsys)
    assert code == 2
    assert "runs/scratch: was made with epochs 1, now 2" in error


def test_a_source_that_is_not_there_is_named(sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace('"out_of_scope"', '"tatoeba"'))

    code, _, error = run(recipe, sample, tmp_path / "out", capsys)

    assert code == 2
    assert "runs/encoder.corpus: tatoeba is neither a corpus of the recipe (it has no corpora) nor a source" in error
    assert not (tmp_path / "out").exists()


def test_parents_are_runs_paths_beside_the_study_or_what_the_command_takes(sample: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace('teacher = "scratch"', 'teacher = "scratch,../students/s,owner/name"'))
    settled = read_recipe(recipe).with_data(str(sample), str(sample / "out_of_scope"), None)

    stages = {stage.name: stage for stage in StageBuilder(settled, Layout(tmp_path / "out")).stages()}

    command = stages["runs/distilled"].work
    assert not callable(command)
    teachers = f"{tmp_path / 'out' / 'runs' / 'scratch'},{tmp_path / 'out' / '../students/s'},owner/name"
    assert f"--teacher={teachers}" in command
    assert set(stages["runs/distilled"].needs) == {"runs/encoder", "runs/scratch"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_flags_of_our_recipes_are_those_of_the_commands(recipe: Path, sample: Path, tmp_path: Path) -> None:
    for language in ("de", "fr", "it", "es", "en"):
        (tmp_path / language).mkdir()
        for source in SOURCES:
            (tmp_path / language / f"{source}.txt").touch()
    settled = read_recipe(recipe).with_data(str(sample), str(tmp_path), None)
    stages = StageBuilder(settled, Layout(tmp_path / "out")).stages()
    commands = [stage.work for stage in stages if not callable(stage.work)]

    assert commands
    for module, *flags in commands:
        import_module(module).parser().parse_args(flags)
