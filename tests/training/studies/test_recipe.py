from __future__ import annotations

from pathlib import Path

import pytest

from training.studies.recipe import RecipeError, read_recipe

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
WHOLE = """
title = "small"
data = "data"
generic = "texts"
locales = ["de-DE", "de-AT", "fr-FR"]
[corpora.generic]
ratio = "1:0"
tokens = 100
[distill]
size = "xs"
steps = 5
[runs.teacher]
command = "pretrain"
corpus = "generic"
[runs.student]
command = "distill"
corpus = "generic"
teacher = "teacher"
steps = 9
[tasks]
dc = "domain"
[report]
seeds = [1]
[[comparisons]]
title = "one"
baseline = "teacher"
runs = ["student"]
"""
WITHOUT_TASKS = """
title = "Two students"
locales = ["de-DE", "fr-FR"]
[runs.scratch]
[runs.encoder]
command = "pretrain"
[runs.taught]
teacher = "scratch"
[[comparisons]]
title = "From scratch or taught"
baseline = "scratch"
runs = ["taught"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_recipes_that_come_with_it_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)

    assert recipe.compared
    assert bool(recipe.tasks) != path.name.startswith("ladder")


def test_data_is_found_beside_the_recipe_and_languages_are_those_of_the_locales(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE))

    assert recipe.data == str(tmp_path / "data")
    assert recipe.languages == ("de", "fr")
    assert recipe.with_data("hub:other", None, "test").data == "hub:other"
    assert recipe.with_data(None, None, "test").partition == "test"


def test_another_encoder_is_adopted(tmp_path: Path) -> None:
    adopted = '[runs.adopted]\ncommand = "adopt"\nencoder = "one"\n[runs.teacher]'
    recipe = read_recipe(written(tmp_path, WHOLE.replace("[runs.teacher]", adopted)))

    assert recipe.with_data("d", None, None, "another").runs["adopted"].settings["encoder"] == "another"
    assert recipe.with_data("d", None, None).runs["adopted"].settings["encoder"] == "one"


def test_encoders_that_are_compared_have_seeds_unless_others_are_made_from_them(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE.replace("seeds = [1]", "seeds = [1]\nencoder_seeds = [4, 5]")))

    assert recipe.replicated == ("student",)
    assert recipe.seeds_of("student") == (4, 5)
    assert recipe.seeds_of("teacher") == (1,)


def test_a_run_has_the_settings_of_its_command_and_its_own_before_them(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE))

    student = recipe.runs["student"]
    assert (student.settings["size"], student.settings["steps"]) == ("xs", 9)
    assert student.title == "student"
    assert recipe.parents_of(student.settings) == ["teacher"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'command = "distill"',
            'command = "guess"',
            "runs.student.command: Input should be 'adopt', 'pretrain', 'distill'",
        ),
        ('dc = "domain"', 'chat = "domain"', "tasks.chat.*: Input should be 'dc' or 'icner', not 'chat'"),
        (
            'runs = ["student"]',
            'runs = ["stranger"]',
            "comparisons, 'one': unknown stranger; allowed: teacher, student",
        ),
        (
            'baseline = "teacher"',
            'base = "teacher"',
            "baseline is missing; comparisons.0.base is unknown; allowed: tit",
        ),
        ("[distill]", "[distil]", "distil is unknown; allowed: title, data"),
        ("seeds = [1]", "seeds = []", "tasks and report.seeds need each other"),
        (
            "seeds = [1]",
            'seeds = [1]\ncontrols = ["teacher", "other"]',
            "controls: unknown other; allowed: teacher, st",
        ),
        (
            "[[comparisons]]",
            '[[contrasts]]\ntitle = "a"\nruns = ["x"]\nbaseline = ["teacher"]\n[[comparisons]]',
            "contrasts, 'a': unknown x; allowed: teacher, student",
        ),
        (
            "[[comparisons]]",
            '[similarity]\nruns = ["student"]\nlocales = ["fr-FR"]\n[[comparisons]]',
            "similarity: student has 0 corpora of fr alone; allowed: runs with one corpus whose locales are 'fr'",
        ),
        ("[distill]", '[tokenizer]\nrun = "teacher"\n[distill]', "tokenizer.run: unknown teacher; allowed: none"),
        ("steps = 9", "step = 9", "runs.student: unknown step; allowed for distill: max_length, epochs"),
        ("steps = 9", "steps = -1", "runs.student: argument --steps: -1 is out of range; allowed: 0 or more"),
        ("steps = 9", 'data = "x"', "runs.student: unknown data; allowed for distill"),
        ('ratio = "1:0"', 'rat = "1:0"', "corpora.generic: unknown rat; allowed: locales, tokens, ratio"),
        ("[distill]", "[tokenizer]\nseed = 1\n[distill]", "tokenizer: unknown seed; allowed: corpus, tokenizer_lines"),
        ('title = "small"', "", "title is missing"),
        ('title = "small"', 'title = "small', "Illegal character"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_entry(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=rf"recipe\.toml: .*{message}"):
        read_recipe(written(tmp_path, WHOLE.replace(old, new, 1)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline = "scratch"', 'baseline = "encoder"', "unknown encoder; allowed: scratch, taught"),
        ("[runs.scratch]", '[runs.scratch]\ninit = "taught"', "taught from scratch.*: can't be made from itself"),
        ('command = "pretrain"', 'command = "pretrain"\ndata = 1', "runs.encoder: data; allowed: true or false"),
        ('command = "pretrain"', 'command = "adopt"', "runs.encoder: encoder is missing"),
        (
            'command = "pretrain"',
            'command = "adopt"\nencoder = "x"\nsize = "s"',
            "runs.encoder: unknown size; allowed for adopt: encoder, revision, layers, tokens, texts",
        ),
        (
            "[runs.scratch]",
            '[export]\nruns = ["encoder"]\n[runs.scratch]',
            "export: unknown encoder; allowed: scratch, ta",
        ),
        ("[runs.scratch]", "[export]\nprecise = 1\n[runs.scratch]", "export.precise is unknown; allowed: runs, precis"),
    ],
)
def test_what_is_wrong_without_tasks_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, WITHOUT_TASKS.replace(old, new, 1)))


def test_data_that_nobody_names_is_asked_for(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE.replace('data = "data"', "")))

    with pytest.raises(RecipeError, match="names no data: give --data"):
        recipe.with_data(None, None, None)
