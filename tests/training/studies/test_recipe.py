from __future__ import annotations

from pathlib import Path

import pytest

from training.studies.recipe import RecipeError, read_recipe

RECIPES = Path(__file__).parents[3] / "training" / "recipes"
WHOLE = """
title = "small"
[data]
task = "data"
generic = "texts"
locales = ["de-DE", "de-AT", "fr-FR"]
[corpora.generic]
ratio = "1:0"
tokens = 100
[distill]
size = "xs"
steps = 5
[encoders.teacher]
command = "pretrain"
corpus = "generic"
[encoders.student]
command = "distill"
corpus = "generic"
teacher = "teacher"
steps = 9
[tasks]
dc = "domain"
[report]
seeds = [1]
[[report.comparisons]]
title = "one"
baseline = "teacher"
encoders = ["student"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", sorted(path.name for path in RECIPES.glob("st*.toml")))
def test_the_recipes_that_come_with_it_can_be_read(name: str) -> None:
    recipe = read_recipe(RECIPES / name)

    assert recipe.compared
    assert all(encoder.corpus in recipe.corpora for encoder in recipe.encoders.values())


def test_data_is_found_beside_the_recipe_and_languages_are_those_of_the_locales(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE))

    assert recipe.task == str(tmp_path / "data")
    assert recipe.languages == ("de", "fr")
    assert recipe.with_data("hub:other", None, "test").task == "hub:other"
    assert recipe.with_data(None, None, "test").partition == "test"


def test_an_encoder_has_the_settings_of_its_command_and_its_own_before_them(tmp_path: Path) -> None:
    student = read_recipe(written(tmp_path, WHOLE)).encoders["student"]

    assert (student.settings["size"], student.settings["steps"]) == ("xs", 9)
    assert student.title == "student"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('corpus = "generic"\nteacher', 'corpus = "nowhere"\nteacher', "corpus names nowhere; known: generic"),
        ('command = "distill"', 'command = "guess"', "command 'guess'; allowed: pretrain, distill"),
        ('dc = "domain"', 'chat = "domain"', r"\[tasks\] names chat; known: dc, icner"),
        ('encoders = ["student"]', 'encoders = ["stranger"]', "comparisons names stranger; known: teacher, student"),
        ("[distill]", "[distil]", "unknown sections distil; allowed: title, data"),
        ("seeds = [1]", "seeds = []", "at least one seed"),
        ("seeds = [1]", 'seeds = [1]\nsimilarity_encoders = ["student"]', "similarity_encoders needs report.noise"),
        ('title = "small"', "", "title is missing"),
        ("[data]", "[data", "cannot be read"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, WHOLE.replace(old, new, 1)))


def test_data_that_nobody_names_is_asked_for(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, WHOLE.replace('task = "data"', "")))

    with pytest.raises(RecipeError, match="names no task data: give --task"):
        recipe.with_data(None, None, None)
