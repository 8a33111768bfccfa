from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from training.evaluation.effects import holm
from training.evaluation.scoring import macro_f1, weights_of
from training.studies.effects_report import write_report
from training.studies.results import ReportError

Json = dict[str, Any]

LOCALES = ("de-DE", "fr-FR")
DOMAINS = [f"domain{i}" for i in range(6)]
SIZE = 180
SEEDS = (1, 2, 3)  # of the encoders; each is fine-tuned once
WRONG = {"generic": 0.4, "same": 0.4, "task": 0.1, "direct": 0.7}  # how often each encoder is wrong
COMPARISON = {"title": "Transfer sets", "baseline": "generic", "encoders": ["same", "task", "direct"]}
RECIPE = {
    "title": "A study",
    "tasks": ["dc", "icner"],
    "seeds": [1],
    "encoder_seeds": {name: list(SEEDS) for name in WRONG},
    "contrasts": [
        {"title": "task - generic", "runs": ["task"], "baseline": ["generic"]},
        {"title": "both", "runs": ["task", "same"], "baseline": ["direct", "generic"]},
    ],
    "comparisons": [COMPARISON],
    "similarity": {"runs": ["task", "direct"], "locales": ["de-DE", "fr-FR"]},
    "controls": ["direct"],
    "notes": ["A note."],
}


def put(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = json.dumps(content).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)


def read(file: Path) -> Any:
    data = file.read_bytes()
    return json.loads(gzip.decompress(data) if file.suffix == ".gz" else data)


def change(file: Path, how: Callable[[Any], Any]) -> None:
    content = read(file)
    how(content)
    put(file, content)


def outcomes(task: str, encoder: str, seed: int, place: int) -> Json:
    """Those of encoder "same" are those of "generic"."""
    generator = np.random.default_rng([seed, place, list(WRONG).index(encoder.replace("same", "generic"))])
    wrong = (generator.random(SIZE) < WRONG[encoder] + 0.01 * seed).astype(int)
    if task == "dc":
        domain = np.arange(SIZE) % len(DOMAINS)
        return {"domain": np.where(wrong, generator.integers(-1, len(DOMAINS), SIZE), domain).tolist()}
    slots = wrong * generator.integers(0, 3, SIZE)
    return {"intent_errors": wrong.tolist(), "slot_errors": slots.tolist()}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RUNS folder with results and no report."""
    runs = tmp_path_factory.mktemp("study")
    folder = runs / "results"
    tails = {"tail_test": list(range(100)), "tail_unseen_value": list(range(20)), "tail_unseen_word": []}
    locale = {
        "ids": [str(i) for i in range(SIZE)],
        "domain": [i % len(DOMAINS) for i in range(SIZE)],
        "slots": [i % 3 for i in range(SIZE)],
        "tails": tails,
    }
    put(
        folder / "references.json.gz",
        {"partition": "dev", "domains": DOMAINS, "locales": dict.fromkeys(LOCALES, locale)},
    )
    for task in ("dc", "icner"):
        for encoder in WRONG:
            for seed in SEEDS:
                found = {name: outcomes(task, encoder, seed, i) for i, name in enumerate(LOCALES)}
                run = {"task": task, "encoder": encoder, "encoder_seed": seed, "seed": 1, "partition": "dev"}
                put(folder / "runs" / task / encoder / f"{seed}-1.json.gz", {**run, "locales": found})
    held_out = {"held_out_loss": 5.0, "unigram_entropy": 6.8, "held_out_accuracy": 30.0}
    seed = {"minutes": 2.5, **held_out, "curve": [{"step": 500, **held_out}, {"step": 1000, **held_out}]}
    worse = {**seed, "held_out_loss": 5.5}
    facts = {x: {"title": f"{x} | text", "corpus": "mixed", "steps": 1000, "seeds": {"1": seed}} for x in WRONG}
    facts["task"]["seeds"] = {"1": seed, "2": worse}
    facts["direct"]["seeds"] = {"1": worse}
    put(folder / "encoders.json", facts)
    put(folder / "corpora.json", {"mixed": {"ratio": "7:3", "tokens": 1234567, "lines": 999}})
    measured = {"task": 0.1, "direct": 0.4}
    put(
        folder / "similarity.json",
        {x: {y: {"divergence": at, "tokens": 1000} for y in LOCALES} for x, at in measured.items()},
    )
    right = {"accuracy": 0.41, "correct": 4100, "positions": 10000}
    put(
        folder / "teachers.json",
        {"teacher": {"generic": right, "task": right}, "adapted": {"generic": right, "task": right}},
    )
    put(folder / "recipe.json", RECIPE)
    return runs


@pytest.fixture(scope="module")
def written(results: Path) -> tuple[Path, Json]:
    return results, write_report(results)


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    """Results to spoil, of a recipe that draws little."""
    shutil.copytree(results / "results", tmp_path / "results")
    for name in ("similarity", "teachers"):
        (tmp_path / "results" / f"{name}.json").unlink()
    put(tmp_path / "results" / "recipe.json", {**RECIPE, "tasks": ["dc"], "notes": []})
    return tmp_path


def cells_of(report: Json, metric: str, comparison: int = 0) -> dict[tuple[str, str, str], Json]:
    (table,) = [x for x in report["comparisons"][comparison]["tables"] if x["metric"]["name"] == metric]
    return {(cell["encoder"], cell["set"], cell["locale"]): cell for cell in table["cells"]}


def mean_f1(encoder: str, locale: str, rows: range) -> float:
    domain = np.arange(SIZE) % len(DOMAINS)
    values = []
    for seed in SEEDS:
        found = np.array(outcomes("dc", encoder, seed, LOCALES.index(locale))["domain"])
        values.append(100 * macro_f1(domain[rows], found[rows], len(DOMAINS), weights_of(len(rows), 0))[0])
    return float(np.mean(values))


def mean_semer(encoder: str, locale: str) -> float:
    values = []
    for seed in SEEDS:
        found = outcomes("icner", encoder, seed, LOCALES.index(locale))
        errors = sum(found["intent_errors"]) + sum(found["slot_errors"])
        values.append(100 * errors / (SIZE + sum(i % 3 for i in range(SIZE))))
    return float(np.mean(values))


def test_changes_are_those_of_the_metrics(written: tuple[Path, Json]) -> None:
    report = written[1]

    f1 = cells_of(report, "f1")
    semer = cells_of(report, "semer")

    for name, rows in (("dev", range(SIZE)), ("tail_test", range(100))):
        base, task = (mean_f1(x, "fr-FR", rows) for x in ("generic", "task"))
        assert f1["task", name, "fr-FR"]["change"] == pytest.approx(100 * (task / base - 1), abs=1e-5)
    base, task = (sum(mean_semer(x, locale) for locale in LOCALES) for x in ("generic", "task"))
    assert semer["task", "dev", "mean"]["change"] == pytest.approx(100 * (task / base - 1), abs=1e-5)
    absolute = {(x["metric"], x["encoder"], x["set"], x["locale"]): x for x in report["absolute"]}
    assert absolute["semer", "task", "dev", "de-DE"]["mean"] == pytest.approx(mean_semer("task", "de-DE"), abs=1e-5)
    assert absolute["semer", "task", "dev", "de-DE"]["sd"] > 0


@pytest.mark.parametrize(("metric", "task_sign"), [("f1", 1), ("semer", -1), ("icer", -1)])
def test_signs_verdicts_and_marks(written: tuple[Path, Json], metric: str, task_sign: int) -> None:
    cells = cells_of(written[1], metric)

    better, worse, same = (cells[x, "dev", "mean"] for x in ("task", "direct", "same"))

    assert better["change"] * task_sign > 0
    assert (better["verdict"], worse["verdict"], same["verdict"]) == ("better", "worse", "no difference shown")
    assert better["mark"] == worse["mark"] == "*"
    assert (same["change"], same["low"], same["high"], same["mark"], same["p_value"]) == (0, 0, 0, "", 1)
    assert better["low"] < better["change"] < better["high"]


def test_small_and_empty_sets_are_not_judged(written: tuple[Path, Json]) -> None:
    cells = cells_of(written[1], "semer")

    small, empty = cells["task", "tail_unseen_value", "de-DE"], cells["task", "tail_unseen_word", "mean"]

    assert small["change"] < 0
    assert small["is_small"]
    assert (small["mark"], small["verdict"]) == ("", "not judged")
    assert empty["change"] is None
    assert " †" in (written[0] / "report.md").read_text()


def test_contrasts_are_corrected_as_one_family(written: tuple[Path, Json]) -> None:
    found = written[1]["contrasts"]

    assert [(x["title"], x["task"]) for x in found] == [
        (title, task) for title in ("task - generic", "both") for task in ("dc", "icner")
    ]
    assert found[0]["change"] == cells_of(written[1], "f1")["task", "dev", "mean"]["change"]
    means = {x: sum(mean_semer(x, locale) for locale in LOCALES) for x in WRONG}
    both = 100 * ((means["task"] + means["same"]) / (means["direct"] + means["generic"]) - 1)
    assert found[3]["change"] == pytest.approx(both, abs=1e-5)
    assert [x["p_holm"] for x in found] == pytest.approx(holm(np.array([x["p_value"] for x in found])), abs=1e-5)
    text = (written[0] / "report.md").read_text()
    assert "| both | task and same against direct and generic | domain classification, F1 (above 0 is better) |" in text
    assert "p, Holm of 4" in text
    assert "**All that follows is exploratory.**" in text


def test_a_contrast_without_results_stays_in_the_family(copy: Path) -> None:
    change(copy / "results" / "recipe.json", lambda recipe: recipe["encoder_seeds"].update(absent=[1, 2, 3]))
    lost = {"title": "lost", "runs": ["absent"], "baseline": ["generic"]}
    change(copy / "results" / "recipe.json", lambda recipe: recipe["contrasts"].append(lost))

    found = write_report(copy)["contrasts"]

    assert [x["p_holm"] for x in found][-1] == 1
    assert found[-1]["verdict"] == "not judged"
    assert found[0]["p_holm"] == pytest.approx(
        min(1, holm(np.array([x.get("p_value", 1) for x in found]))[0]), abs=1e-5
    )


def test_encoders_that_did_not_learn_are_named_but_for_controls(written: tuple[Path, Json]) -> None:
    assert written[1]["unlearned"] == [{"encoder": "task", "seed": "2", "nats_below": pytest.approx(1.3)}]
    text = (written[0] / "report.md").read_text()
    assert "they stay in all tables: task, seed 2 (1.30 nats below)." in text
    assert "| direct (control) | 1 | 6.80 | 5.50 | 1.30 | 30.00 | 2.50 |" in text


def test_the_slope_against_distance_is_that_of_the_means(written: tuple[Path, Json]) -> None:
    found = {x["task"]: x for x in written[1]["slopes"]}

    gaps = [mean_semer("direct", locale) - mean_semer("task", locale) for locale in LOCALES]
    assert found["icner"]["change"] == pytest.approx(sum(gaps) / 2 / 0.3, abs=1e-4)
    assert found["icner"]["low"] > 0 > found["dc"]["high"]
    assert "points for each 0.1 bits" in (written[0] / "report.md").read_text()


def test_figures_are_well_formed_and_embedded(written: tuple[Path, Json]) -> None:
    runs, report = written
    text = (runs / "report.md").read_text()

    drawn = [name for name in report["figures"] if name.endswith(".svg")]

    assert drawn == ["effects-1-dc.svg", "effects-1-icner.svg", "similarity.svg", "curves.svg", "noise.svg"]
    for name in drawn:
        assert ElementTree.parse(runs / name).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert (runs / name).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in text


def test_the_text_holds_what_was_compared(written: tuple[Path, Json]) -> None:
    text = (written[0] / "report.md").read_text()

    for part in (
        "# A study",
        "A note.",
        "same, task, direct against generic",
        "| task | task \\| text |",
        "1,234,567",
        "- domain classification, F1: task is better than generic: +",
        "- intents and slots, SemER: direct is worse than generic: +",
        "- intents and slots, ICER: no difference shown between same and generic: +0.0 % [+0.0, +0.0]",
        "| adapted | task | 41.0 | 59.0 | 10,000 |",
        "| task | 0.100 (1,000) | 0.100 (1,000) |",
    ):
        assert part in text
    assert "Missing" not in text
    assert json.loads((written[0] / "report.json").read_text()) == written[1]


def test_the_same_results_give_the_same_bytes(written: tuple[Path, Json], tmp_path: Path) -> None:
    shutil.copytree(written[0] / "results", tmp_path / "results")

    names = ["report.md", "report.json", *write_report(tmp_path)["figures"]]

    for name in names:
        assert (tmp_path / name).read_bytes() == (written[0] / name).read_bytes()


def test_missing_runs_are_named_and_the_rest_is_compared(copy: Path) -> None:
    runs = copy / "results" / "runs" / "dc"
    (runs / "task" / "3-1.json.gz").unlink()
    for seed in (1, 2):
        (runs / "same" / f"{seed}-1.json.gz").unlink()
    shutil.rmtree(runs / "direct")

    report = write_report(copy)

    cells = cells_of(report, "f1")
    assert report["missing"][:3] == [
        "domain classification, task: no result of seed 3-1",
        "domain classification, direct: no result of seeds 1-1, 2-1, 3-1",
        "domain classification, same: no result of seeds 1-1, 2-1",
    ]
    assert {key[0] for key in cells} == {"same", "task"}
    assert cells["task", "dev", "mean"]["seeds"] == 2
    alone = cells["same", "dev", "mean"]
    assert (alone["seeds"], alone["verdict"], alone["change"]) == (1, "not judged", 0)
    assert "with a single seed" in (copy / "report.md").read_text()


def test_a_comparison_without_its_baseline_is_left_out(copy: Path) -> None:
    other = {"title": "Other", "baseline": "absent", "encoders": ["task"]}
    change(copy / "results" / "recipe.json", lambda recipe: recipe["comparisons"].append(other))
    change(copy / "results" / "recipe.json", lambda recipe: recipe["encoder_seeds"].update(absent=[1]))

    report = write_report(copy)

    assert [len(comparison["tables"]) for comparison in report["comparisons"]] == [1, 0]
    assert any("“Other”" in line and "baseline absent" in line for line in report["missing"])


def test_answers_on_another_partition_are_not_used(copy: Path) -> None:
    change(copy / "results" / "runs" / "dc" / "task" / "3-1.json.gz", lambda run: run.update(partition="test"))

    report = write_report(copy)

    assert cells_of(report, "f1")["task", "dev", "mean"]["seeds"] == 2
    assert "domain classification, task: no result of seed 3-1" in report["missing"]
    assert "dc/task/3-1" in report["missing"][-1]


def test_utterances_without_a_domain_are_no_obstacle_where_none_is_asked_for(copy: Path) -> None:
    put(copy / "results" / "recipe.json", {**RECIPE, "tasks": ["icner"]})
    change(copy / "results" / "references.json.gz", lambda x: x["locales"]["de-DE"]["domain"].__setitem__(0, -1))

    assert cells_of(write_report(copy), "semer")["task", "dev", "mean"]["verdict"] == "better"


def test_a_teacher_that_held_out_nothing_has_no_noise(copy: Path) -> None:
    put(copy / "results" / "teachers.json", {"adapted": {"task": {"accuracy": 0.4, "correct": 4, "positions": 10}}})

    missing = write_report(copy)["missing"]

    assert any(x.startswith("noise of adapted: every generic text that it held out also occurs") for x in missing)


def test_without_any_run_there_still_is_a_report(copy: Path) -> None:
    shutil.rmtree(copy / "results" / "runs")

    report = write_report(copy)

    assert report["absolute"] == []
    assert report["figures"] == ["curves.svg", "curves.png"]
    assert "- nothing: no two" in (copy / "report.md").read_text()
    assert "no result of seeds 1-1, 2-1, 3-1" in (copy / "report.md").read_text()


def test_results_that_the_recipe_does_not_ask_for_are_not_used(copy: Path) -> None:
    change(copy / "results" / "recipe.json", lambda recipe: recipe["encoder_seeds"].update(task=[1, 2]))

    report = write_report(copy)

    assert cells_of(report, "f1")["task", "dev", "mean"]["seeds"] == 2
    assert "dc/task/3-1" in report["missing"][-1]


def _drop_row(run: Json) -> None:
    run["locales"]["fr-FR"]["domain"].pop()


def _not_an_index(run: Json) -> None:
    run["locales"]["fr-FR"]["domain"][0] = 6


def _half(run: Json) -> None:
    run["locales"]["fr-FR"]["domain"][0] = 0.5


def _no_locale(run: Json) -> None:
    del run["locales"]["fr-FR"]


def _other_seed(run: Json) -> None:
    run["encoder_seed"] = 2


@pytest.mark.parametrize("spoil", [_drop_row, _not_an_index, _half, _no_locale, _other_seed])
def test_a_broken_run_is_an_error_that_names_it(copy: Path, spoil: Callable[[Json], None]) -> None:
    file = copy / "results" / "runs" / "dc" / "task" / "1-1.json.gz"
    change(file, spoil)

    with pytest.raises(ReportError, match=r"dc/task/1-1\.json\.gz: "):
        write_report(copy)


@pytest.mark.parametrize("name", ["runs/dc/task/1-1.json.gz", "references.json.gz", "recipe.json", "encoders.json"])
@pytest.mark.parametrize("data", [b"", b"{", gzip.compress(b'{"a": 1}', mtime=0)[:-9], b"[1]"])
def test_a_broken_file_is_an_error_that_names_it(copy: Path, name: str, data: bytes) -> None:
    (copy / "results" / name).write_bytes(data)

    with pytest.raises(ReportError, match=Path(name).name.replace(".", r"\.")):
        write_report(copy)


def test_an_absent_reference_and_an_unknown_task_are_errors(copy: Path) -> None:
    change(copy / "results" / "recipe.json", lambda recipe: recipe.update(tasks=["other"]))
    with pytest.raises(ReportError, match=r"recipe\.json: unknown tasks \['other'\]; allowed: dc, icner"):
        write_report(copy)

    (copy / "results" / "references.json.gz").unlink()
    put(copy / "results" / "recipe.json", RECIPE)
    with pytest.raises(ReportError, match=r"references\.json\.gz"):
        write_report(copy)
