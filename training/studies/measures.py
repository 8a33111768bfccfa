"""Measurements of a study's runs: the small files in `results`, from which reports are made."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.student.manifest import MANIFEST_FILE, TOKENIZER_FILE
from training.data import datasets
from training.data.files import read_json, write_atomically, write_json
from training.data.splitting import is_chosen
from training.data.utterances import Utterance
from training.evaluation.scoring import semantic_errors
from training.evaluation.tails import TAILS, tail_of
from training.models.checkpoint import TRAINING_FILE, is_finished, load_checkpoint, with_heads
from training.models.prediction import answers_of_model
from training.studies import similarity
from training.studies.layout import Layout, Seeds
from training.studies.ledger import StageError
from training.studies.recipe import Recipe
from training.text.corpus import read_lines
from training.text.lines import held_out_rows
from training.text.tokenizer import load_tokenizer

NOISE_TEXTS = 2000  # of a kind, in which teachers predict masked words
TRAINING_FACTS = ("steps", "seconds", "best_epoch")  # of training.json, for the table of compared runs
ENCODER_FACTS = ("size", "corpus", "replay", "teacher", "init", "start", "chain")  # settings, for the table of encoders

ByLocale = dict[str, list[Utterance]]


def write_facts(recipe: Recipe, layout: Layout) -> None:
    """Write the recipe's comparisons, and facts on the finished corpora and encoders."""
    report, compared = recipe.report, {name: recipe.runs[name] for name in recipe.compared}
    content = {
        "title": recipe.title,
        "data": Path(recipe.data).name,
        "partition": recipe.partition,
        "tasks": list(recipe.tasks),
        "seeds": list(report.seeds),
        "comparisons": [{"title": c.title, "baseline": c.baseline, "encoders": c.runs} for c in recipe.comparisons],
        "contrasts": [contrast.model_dump() for contrast in recipe.contrasts],
        "encoder_seeds": {name: recipe.seeds_of(name) for name in recipe.compared} if recipe.tasks else {},
        "similarity": recipe.similarity.model_dump(),
        "controls": list(report.controls),
        "finetune": recipe.finetune,
        "notes": list(report.notes),
        "runs": {name: {"title": run.title, "settings": run.settings} for name, run in compared.items()},
        "plan": recipe.plan,
    }
    write_json(layout.recipe, content)
    manifests = {name: Path(f"{layout.corpus(name)}.json") for name in recipe.corpora}
    corpora = {name: read_json(file) for name, file in manifests.items() if file.is_file()}
    write_json(layout.results / "corpora.json", corpora)
    manifests = {name: layout.student(name) / MANIFEST_FILE for name in recipe.export.runs}
    students = {name: _student_facts(read_json(file)) for name, file in manifests.items() if file.is_file()}
    if students:
        write_json(layout.students, students)
    encoders = {name: _encoder_facts(recipe, layout, name) for name in recipe.encoders}
    write_json(layout.results / "encoders.json", {name: facts for name, facts in encoders.items() if facts})


def _encoder_facts(recipe: Recipe, layout: Layout, name: str) -> dict[str, Any]:
    """Settings and budget of an encoder, and of each finished seed its time, scores and curve; empty without any."""
    run, folder, replicated = recipe.runs[name], layout.run(name), name in recipe.replicated
    folders = {seed: folder / str(seed) if replicated else folder for seed in recipe.seeds_of(name)}
    found = {seed: read_json(x / TRAINING_FILE) for seed, x in folders.items() if is_finished(x)}
    if not found:
        return {}
    training = next(iter(found.values()))
    return {
        "title": run.title,
        "command": run.command,
        **{key: run.settings.get(key) for key in ENCODER_FACTS},
        "steps": training["steps"],
        "tokens": training["pieces_seen"],
        "passes": training.get("passes"),
        "parameters": training["parameters"][1],
        "seeds": {
            str(seed): {"minutes": round(x["seconds"] / 60, 1), **x["held_out"], "curve": x.get("curve", [])}
            for seed, x in found.items()
        },
    }


def _student_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """Shape, size on disk, latency of the served graph and quality as served, of an exported student."""
    precision, quality = manifest["precision"], manifest["accuracy"]
    return {
        **{
            key: manifest["architecture"][key] for key in ("layers", "hidden", "parameters", "non_embedding_parameters")
        },
        "precision": precision,
        "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
        "microseconds": manifest["latency"][precision],
        "partition": quality["partition"],
        "quality": quality[precision],
    }


def _evaluated(recipe: Recipe) -> tuple[ByLocale, list[Utterance]]:
    """The scored utterances, by locale in order of id as in all files; and the training utterances.

    Of dev, those are left out that chose the epochs.
    """
    locales = list(recipe.locales)
    dataset = datasets.load(recipe.data, locales)
    part = dataset.part(recipe.partition, locales)
    share = float(recipe.finetune.get("selection_share", 1.0))
    if recipe.partition == "dev" and share < 1:  # the rest has chosen the epochs
        part = [u for u in part if not is_chosen(u.id, share)]
    by_locale = {x: sorted((u for u in part if u.locale == x), key=lambda u: u.id) for x in locales}
    return by_locale, dataset.part("train", locales)


def write_utterances(recipe: Recipe, layout: Layout) -> None:
    """Write the utterances on which runs are compared."""
    part = datasets.load(recipe.data, recipe.locales).part(recipe.partition, recipe.locales)
    write_json(layout.utterances, [datasets.row_of(u) for u in part])


def write_majority(recipe: Recipe, layout: Layout) -> None:
    """Write the most frequent domain and intent of the training utterances, None where none is labelled."""
    train = datasets.load(recipe.data, recipe.locales).part("train", recipe.locales)
    counts = {head: Counter(label for u in train if (label := getattr(u, head))) for head in ("domain", "intent")}
    best = {head: min(found, key=lambda label: (-found[label], label), default=None) for head, found in counts.items()}
    write_json(layout.majority, best)


def read_utterances(layout: Layout) -> list[Utterance]:
    """Read what `write_utterances` wrote."""
    return [datasets.utterance_of(row) for row in read_json(layout.utterances)]


def write_answers(layout: Layout, name: str) -> None:
    """Write the answers of a fine-tuned run."""
    folder = layout.run(name)
    checkpoint = with_heads(load_checkpoint(folder), folder)
    found = answers_of_model(checkpoint.model, checkpoint.encoder, checkpoint.labels, read_utterances(layout))
    answers = [[x.domain, x.intent, [[s.name, s.start, s.end] for s in x.slots or ()]] for x in found]
    training = read_json(folder / TRAINING_FILE)
    write_json(layout.answers(name), {**{key: training[key] for key in TRAINING_FACTS}, "answers": answers})


def write_references(recipe: Recipe, layout: Layout) -> None:
    """Write the expected answers: ids, domains, number of slots, and the rows of each tail.

    Raises StageError: the data has no domains, and a task needs them.
    """
    evaluated, train = _evaluated(recipe)
    without = sum(not u.domain for rows in evaluated.values() for u in rows)
    if without and "dc" in recipe.tasks:
        raise StageError(f"{recipe.data}: {without} utterances have no domain, which the task dc needs")
    domains = sorted({u.domain for rows in evaluated.values() for u in rows if u.domain})
    locales = {}
    for locale, rows in evaluated.items():
        place = {u.id: i for i, u in enumerate(rows)}
        seen = [u for u in train if u.locale == locale]
        tails = {name: [place[u.id] for u in tail_of(name, rows, seen)] for name in TAILS}
        domain = [domains.index(u.domain) if u.domain else -1 for u in rows]
        expected = {"domain": domain, "slots": [len(u.slots) for u in rows]}
        locales[locale] = {"ids": [u.id for u in rows], **expected, "tails": tails}
    write_json(layout.references, {"partition": recipe.partition, "domains": domains, "locales": locales})


def write_outcomes(recipe: Recipe, layout: Layout, task: str, name: str, seeds: Seeds) -> None:
    """Write the outcomes of a fine-tuned encoder, utterance by utterance."""
    domains = read_json(layout.references)["domains"]
    found = outcomes_of(layout.finetuned(task, name, seeds), _evaluated(recipe)[0], domains)
    run = {"task": task, "encoder": name, "encoder_seed": seeds[0], "seed": seeds[1], "partition": recipe.partition}
    write_json(layout.outcomes(task, name, seeds), {**run, "locales": found})


def outcomes_of(folder: Path, evaluated: ByLocale, domains: Sequence[str]) -> dict[str, Any]:
    """Outcomes of a fine-tuned checkpoint per locale; the lists depend on its heads.

    `domain`: index of the domain, -1 for one that no reference has. `intent_errors`: 0 or 1. `slot_errors`:
    substitutions, deletions and insertions.

    Raises CheckpointError: it can't be loaded, or has no heads.
    """
    checkpoint = with_heads(load_checkpoint(folder), folder)
    index = {name: i for i, name in enumerate(domains)}
    found: dict[str, Any] = {}
    for locale, rows in evaluated.items():
        answers = answers_of_model(checkpoint.model, checkpoint.encoder, checkpoint.labels, rows)
        found[locale] = {}
        if checkpoint.labels.domain:
            found[locale]["domain"] = [index.get(answer.domain or "", -1) for answer in answers]
        if checkpoint.labels.intent:
            wrong = [int(answer.intent != row.intent) for row, answer in zip(rows, answers, strict=True)]
            errors = [semantic_errors(row, answer)[0] for row, answer in zip(rows, answers, strict=True)]
            found[locale]["intent_errors"] = wrong
            found[locale]["slot_errors"] = [e - w for e, w in zip(errors, wrong, strict=True)]
    return found


def write_noise(recipe: Recipe, layout: Layout) -> None:
    """Write the accuracy of the teachers on masked words, in held-out generic text and in the task's text."""
    noise = recipe.report.noise
    task = [u.text for rows in _evaluated(recipe)[0].values() for u in rows]
    first = recipe.runs[next(iter(noise))]
    found: dict[str, Any] = {}
    for name, corpus in noise.items():
        teacher = load_checkpoint(layout.run(name))
        generic = unseen_lines(layout.corpus(corpus), int(first.settings.get("seed", 1)))
        found[name] = {}
        for kind, texts in (("generic", generic), ("task", task)):
            chosen = random.Random(0).sample(texts, min(NOISE_TEXTS, len(texts)))
            correct, positions = similarity.masked_word_accuracy(teacher.model, teacher.encoder, chosen)
            if positions:  # none if all held-out lines also occur in the training text
                found[name][kind] = {"accuracy": correct / positions, "correct": correct, "positions": positions}
    write_json(layout.results / "teachers.json", found)


def write_similarity(recipe: Recipe, layout: Layout) -> None:
    """Write how far the text of each run of the similarity is from the task's, in each locale, in bits."""
    tokenizer, train = load_tokenizer(layout.tokenizer), _evaluated(recipe)[1]
    found: dict[str, Any] = {name: {} for name in recipe.similarity.runs}
    for locale in recipe.similarity.locales:
        task = similarity.token_counts(tokenizer, (u.text for u in train if u.locale == locale))
        for name, by_locale in found.items():
            text = recipe.text_of(name, locale)
            counts = similarity.token_counts(tokenizer, read_lines([str(layout.corpus(text))]))
            distance = similarity.divergence(counts, task)
            by_locale[locale] = {"corpus": text, "divergence": distance, "tokens": int(counts.sum())}
    write_json(layout.results / "similarity.json", found)


def copy_tokenizer(layout: Layout, run: str) -> None:
    """The tokenizer of an adopted run becomes that of the study."""
    write_atomically(layout.tokenizer, (layout.run(run) / TOKENIZER_FILE).read_bytes())


def unseen_lines(file: Path, seed: int) -> list[str]:
    """The held-out lines of a text in a run with that seed, without those that also occur elsewhere in it."""
    sources = [str(file)]
    held_out = set(held_out_rows(sum(1 for _ in read_lines(sources)), seed).tolist())
    unseen = dict.fromkeys(text for row, text in enumerate(read_lines(sources)) if row in held_out)
    for row, text in enumerate(read_lines(sources)):
        if row not in held_out:
            unseen.pop(text, None)
    return list(unseen)
