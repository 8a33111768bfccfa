from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from training import study
from training.data.files import read_json

ROOT = Path(__file__).parents[3]
RECIPES = ROOT / "training" / "recipes"
PUBLISHED = ROOT / "docs" / "study"
SHORT = """
title = "short"
data = "{sample}"
generic = "{sample}/out_of_scope"
locales = ["de-DE", "fr-FR"]
[tokenizer]
vocabulary = 500
[corpora.generic]
ratio = "1:0"
tokens = 2000
repeat = true
[corpora.task]
ratio = "0:1"
tokens = 2000
repeat = true
[corpora.near]
ratio = "0:1"
tokens = 500
locales = "de"
repeat = true
[corpora.far]
ratio = "1:0"
tokens = 500
locales = "de"
repeat = true
[pretrain]
size = "xs"
steps = {steps}
batch_tokens = 256
[distill]
size = "xs"
steps = {steps}
batch_tokens = 256
teacher_cache = "cache"
[runs.teacher]
command = "pretrain"
corpus = "generic"
[runs.adapted]
command = "pretrain"
corpus = "task"
replay = "generic"
init = "teacher"
[runs.random]
command = "pretrain"
corpus = "task"
steps = 1
learning_rate = 0
[runs.near]
command = "distill"
corpus = "near"
teacher = "teacher"
[runs.far]
command = "distill"
corpus = "far"
teacher = "teacher"
[runs.generic]
command = "distill"
corpus = "generic"
teacher = "teacher"
[runs.task]
title = "task only, adapted teacher"
command = "distill"
corpus = "task"
teacher = "adapted"
[finetune]
epochs = 1
batch_size = 64
augmented_share = 0
selection_share = 0.5
[tasks]
dc = "domain"
icner = "intent,slots"
[report]
encoder_seeds = [1, 2]
seeds = [1]
controls = ["random"]
noise = {{teacher = "generic"}}
[[contrasts]]
title = "task - generic"
runs = ["task"]
baseline = ["generic"]
[[comparisons]]
title = "sets"
baseline = "generic"
runs = ["random", "task"]
[similarity]
runs = ["near", "far"]
locales = ["de-DE"]
"""


def short_recipe(folder: Path, sample: Path, steps: int = 20) -> Path:
    path = folder / "recipe.toml"
    path.write_text(SHORT.format(sample=sample, steps=steps))
    return path


def figures_of(runs: Path) -> dict[str, Any]:
    """The results of a study without the duration of its runs."""
    found = {str(path.relative_to(runs)): read_json(path) for path in sorted((runs / "results").rglob("*.json*"))}
    for encoder in found["results/encoders.json"].values():
        for seed in encoder["seeds"].values():
            del seed["minutes"]
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    return short_recipe(tmp_path_factory.mktemp("recipe"), sample)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """A small study with all kinds of stages."""
    runs = tmp_path_factory.mktemp("study") / "short"
    assert study.main(["--recipe", str(recipe), "--out", str(runs)]) == 0
    return runs


def assert_reported_completely(runs: Path) -> None:
    report = (runs / "report.md").read_text()

    assert "task only, adapted teacher" in report
    for figure in ("effects-1-dc", "effects-1-icner", "similarity", "curves", "noise"):
        assert (runs / f"{figure}.svg").stat().st_size > 1000
        assert f"{figure}.svg" in report
    assert read_json(runs / "report.json")["missing"] == []


def test_a_study_makes_all_tables_and_figures(finished: Path) -> None:
    assert_reported_completely(finished)


@pytest.mark.slow
def test_the_demonstration_makes_all_tables_and_figures(tmp_path: Path) -> None:
    command = ["--recipe", str(RECIPES / "study-demo.toml"), "--out", str(tmp_path), "--jobs", "2"]
    assert study.main(command) == 0

    assert_reported_completely(tmp_path)


@pytest.mark.slow
def test_the_staged_demonstration_compares_stages_students_and_chain(tmp_path: Path) -> None:
    command = ["--recipe", str(RECIPES / "staged-demo.toml"), "--out", str(tmp_path), "--jobs", "2"]
    assert study.main(command) == 0

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["missing"] == []
    compared = {(c["baseline"], *c["encoders"]): c["tables"] for c in report["comparisons"]}
    assert set(compared) == {
        ("stage1", "stage2"),
        ("student1", "student2"),
        ("stage1", "intermediate"),
        ("student2", "chained"),
    }
    for tables in compared.values():
        assert [table["metric"]["name"] for table in tables] == ["semer", "icer"]
        assert all(cell["change"] is not None for table in tables for cell in table["cells"] if cell["set"] == "dev")


def test_contrasts_are_one_family_and_no_encoder_that_learned_too_little_is_left_out(finished: Path) -> None:
    report = read_json(finished / "report.json")

    assert [(x["title"], x["task"], x["metric"]["name"], x["seeds"]) for x in report["contrasts"]] == [
        ("task - generic", "dc", "f1", 2),
        ("task - generic", "icner", "semer", 2),
    ]
    assert {x["encoder"] for x in report["unlearned"]} == {"teacher", "adapted", "generic", "task", "near", "far"}
    text = (finished / "report.md").read_text()
    assert "**Encoders that did not learn enough**" in text
    assert "| random (control) | 1 |" in text
    assert "Epochs were chosen on 50 % of dev by id; the scores are those of the rest" in text
    scored = read_json(finished / "results" / "references.json.gz")["locales"]["de-DE"]["ids"]
    chosen_on = read_json(finished / "finetuned" / "dc" / "task" / "1-1" / "training.json")["utterances"]["dev"]
    assert (len(scored), chosen_on) == (19, 2 * 14)  # of the 33 of each locale
    assert {row["level"] for row in report["absolute"]} == {"encoder"}


def test_seeds_share_the_predictions_of_a_teacher(finished: Path) -> None:
    caches = list((finished / "cache").iterdir())

    assert len(caches) == 4  # generic, task, near, far


def test_every_student_was_distilled_with_the_same_budget(finished: Path) -> None:
    encoders = read_json(finished / "results" / "encoders.json")

    budgets = {(e["steps"], e["tokens"]) for e in encoders.values() if e["command"] == "distill"}
    assert len(budgets) == 1


def test_finished_stages_are_skipped(recipe: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "results" / "runs").rglob("*.gz")}

    assert study.main(["--recipe", str(recipe), "--out", str(finished)]) == 0

    assert json.loads(capsys.readouterr().out)["done_now"] == 0
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "results" / "runs").rglob("*.gz")}


def test_the_report_needs_only_the_results_folder(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(finished / "results")

    assert study.main(["--report", "--out", str(tmp_path)]) == 0

    assert (tmp_path / "report.json").read_bytes() == (finished / "report.json").read_bytes()


unpublished = pytest.mark.skipif(not PUBLISHED.exists(), reason="the study has not been run yet")


@unpublished
@pytest.mark.slow
def test_the_published_report_is_what_its_results_say(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(PUBLISHED / "results")

    assert study.main(["--report", "--out", str(tmp_path)]) == 0

    for name in ("report.json", "report.md"):
        assert (tmp_path / name).read_text() == (PUBLISHED / name).read_text()


@unpublished
def test_the_page_on_the_study_says_what_its_report_says() -> None:
    page, report = (ROOT / "docs" / "study.md").read_text(), (PUBLISHED / "report.md").read_text()

    figures = re.findall(r"[+-]\d+\.\d+ \[[^\]]+\]|\d+\.\d ± \d+\.\d", page)
    assert len(figures) > 10
    assert [figure for figure in figures if figure not in report] == []
    assert all((ROOT / "docs" / name).exists() for name in re.findall(r"\]\((study/[^)#]+)\)", page))


def test_another_recipe_is_refused_in_the_same_folder(
    tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "runs"
    command = ["--out", str(runs), "--until", "runs/teacher", "--recipe"]
    assert study.main([*command, str(short_recipe(tmp_path, sample, steps=2))]) == 0

    assert study.main([*command, str(short_recipe(tmp_path, sample, steps=3))]) == 2

    assert f"runs/teacher: was made with steps 2, now 3; remove {runs / 'runs' / 'teacher'}" in capsys.readouterr().err


def test_a_folder_without_text_in_the_languages_is_refused_before_anything_is_made(
    tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, runs = short_recipe(tmp_path, sample), tmp_path / "runs"

    assert study.main(["--recipe", str(recipe), "--out", str(runs), "--generic", str(tmp_path / "typo")]) == 2

    assert "typo holds no text in de, fr" in capsys.readouterr().err
    assert not (runs / "tokenizer.json").exists()


def test_an_encoder_that_is_made_of_itself_is_refused(
    tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short_recipe(tmp_path, sample)
    recipe.write_text(recipe.read_text().replace('init = "teacher"', 'init = "task"'))

    assert study.main(["--recipe", str(recipe), "--out", str(tmp_path / "runs")]) == 2

    assert "adapted from task from adapted: can't be made from itself" in capsys.readouterr().err


def test_a_stage_that_fails_is_named_with_the_end_of_its_log(
    tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = short_recipe(tmp_path, sample)
    recipe.write_text(recipe.read_text().replace("repeat = true", "repeat = false", 1).replace("2000", "200000", 1))

    assert study.main(["--recipe", str(recipe), "--out", str(tmp_path / "runs")]) == 2

    error = capsys.readouterr().err
    assert "corpora/generic failed" in error
    assert "--repeat" in error


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [["finetuned/icner/task/1-1/resume.pt"], ["runs/teacher/resume.pt", "runs/task/2/resume.pt"]],
    ids=["finetune", "pretrain and distill"],
)
def test_a_study_killed_in_a_stage_ends_with_the_same_results(
    moments: list[str], recipe: Path, finished: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "training.study", "--recipe", str(recipe), "--out", str(tmp_path)]
    for moment in moments:
        kill_when_there(command, tmp_path / moment)

    assert study.main(["--recipe", str(recipe), "--out", str(tmp_path)]) == 0

    assert figures_of(tmp_path) == figures_of(finished)


def kill_when_there(command: list[str], awaited: Path) -> None:
    """Start a study and kill it as soon as a file exists."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not awaited.exists():  # the time-out of the test is the limit
            assert process.poll() is None, "the study ended before it could be killed"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
