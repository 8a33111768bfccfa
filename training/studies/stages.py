"""The stages of a study: what is run for each part of a recipe, what it needs, and how to tell that it is done."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training.data import datasets
from training.data.utterances import Utterance
from training.models.checkpoint import TRAINING_FILE, is_finished, load_checkpoint
from training.studies.ledger import Stage, StageError
from training.studies.outcomes import REFERENCES_FILE, by_locale, outcomes_of, read_json, references_of, write_json
from training.studies.recipe import PARENTS, STARTS, Encoder, Recipe
from training.studies.similarity import (
    divergence,
    masked_word_accuracy,
    piece_counts,
    pseudo_perplexity,
    sample_of_pieces,
)
from training.text.corpus import read_lines
from training.text.lines import held_out_rows
from training.text.sources import LAYOUT, texts_by_language
from training.text.tokenizer import load_tokenizer

CORPUS_SUFFIX = ".txt.gz"
SAMPLE_PIECES = 1500  # of a domain's text that is compared with the generic text
NOISE_TEXTS = 2000  # of a kind that teachers are asked to complete


def stages_of(recipe: Recipe, runs: Path) -> list[Stage]:
    """All stages of a recipe, each after those that it needs."""
    made = Maker(recipe, runs)
    stages = [made.tokenizer()]
    stages += [made.corpus(name) for name in recipe.corpora]
    stages += [made.encoder(encoder) for encoder in recipe.encoders.values()]
    stages += [made.facts(), made.references()]
    for seed in recipe.seeds:  # outermost: a study that is stopped early has fewer seeds of everything
        for task in recipe.tasks:
            for name in recipe.compared:
                stages += made.finetuned(task, name, seed)
    if recipe.noise:
        stages.append(made.noise())
    if recipe.similarity_encoders:
        stages += [made.nearby(language) for language in recipe.languages]
        stages.append(made.similarity())
    return _in_order(stages)


def _in_order(stages: Sequence[Stage]) -> list[Stage]:
    """The stages in their order, but each after those that it needs. Raises StageError where that cannot be."""
    by_name, ordered = {stage.name: stage for stage in stages}, dict[str, Stage]()

    def place(stage: Stage, above: tuple[str, ...]) -> None:
        if stage.name in above:
            raise StageError(f"{' of '.join((*above[above.index(stage.name) :], stage.name))}: can't be made of itself")
        for need in stage.needs if stage.name not in ordered else ():
            place(by_name[need], (*above, stage.name))
        ordered.setdefault(stage.name, stage)

    for stage in stages:
        place(stage, ())
    return list(ordered.values())


def needed_for(stages: Sequence[Stage], last: str) -> list[Stage]:
    """The stage of that name, or the group of stages ("encoders"), and all that they need.

    Raises:
        StageError: there is none; the message names the groups.
    """
    by_name = {stage.name: stage for stage in stages}
    open_ = [name for name in by_name if name == last or name.startswith(f"{last}/")]
    if not open_:
        groups = dict.fromkeys(name.split("/")[0] for name in by_name)
        raise StageError(f"--until {last}: no such stage or group of stages; there are {', '.join(groups)}")
    needed = set()
    while open_:
        name = open_.pop()
        needed.add(name)
        open_ += by_name[name].needs
    return [stage for stage in stages if stage.name in needed or (stage.name == "facts" and needed >= {*stage.needs})]


@dataclass(frozen=True)
class Maker:
    """Makes the stages of a recipe in a folder."""

    recipe: Recipe
    runs: Path

    @property
    def results(self) -> Path:
        """The small files that the report is made of."""
        return self.runs / "results"

    def corpus_file(self, name: str) -> Path:
        """A text of the recipe."""
        return self.runs / "corpora" / f"{name}{CORPUS_SUFFIX}"

    def tokenizer(self) -> Stage:
        """One tokenizer for all encoders, trained on the task's and the generic text.

        Raises:
            StageError: there is no generic text in any of the languages.
        """
        recipe, file = self.recipe, self.runs / "tokenizer.json"
        texts = texts_by_language(Path(recipe.generic))
        folders = ",".join(str(path) for language in recipe.languages for path in texts.get(language, ()))
        if not folders:
            raise StageError(f"{recipe.generic} holds no text in {', '.join(recipe.languages)}; allowed: {LAYOUT}")
        settings = {"locales": ",".join(recipe.locales), **recipe.tokenizer}
        flags = _flags({"data": recipe.task, "corpus": folders, **settings, "out": file})
        asked = {**settings, "data": _name(recipe.task), "generic": _name(recipe.generic)}
        return Stage("tokenizer", (), ("training.tokenizer", *flags), file, file.is_file, asked)

    def corpus(self, name: str) -> Stage:
        """A transfer set."""
        return self._corpus(name, {"languages": ",".join(self.recipe.languages), **self.recipe.corpora[name]})

    def nearby(self, language: str) -> Stage:
        """Generic text of one language, to compare the task's text of that language with."""
        tokens = 100 * SAMPLE_PIECES
        settings = {"languages": language, "ratio": "1:0", "tokens": tokens, "repeat": True}
        return self._corpus(f"generic-{language}", settings)

    def _corpus(self, name: str, settings: Mapping[str, Any]) -> Stage:
        recipe, file = self.recipe, self.corpus_file(name)
        own = {"generic": recipe.generic, "task": recipe.task, "tokenizer": self.runs / "tokenizer.json"}
        # With --force, as a build that was killed may have left its manifest
        command = ("training.corpus", "build", *_flags({**own, **settings, "out": file}), "--force")
        asked = {**settings, "generic": _name(recipe.generic), "task": _name(recipe.task)}
        return Stage(f"corpora/{name}", ("tokenizer",), command, file, file.is_file, asked)

    def encoder(self, encoder: Encoder) -> Stage:
        """A pretrained or distilled encoder."""
        folder, parents = self.encoder_folder(encoder.name), self.parents_of(encoder)
        settings = {**encoder.settings, **{setting: str(path) for setting, path in parents.items()}}
        flags = {**settings, "corpus": self.corpus_file(encoder.corpus)}
        if encoder.command == "pretrain" and "init" not in settings:
            flags["tokenizer"] = self.runs / "tokenizer.json"
        command = (f"training.{encoder.command}", *_flags({**flags, "out": folder}), "--resume")
        needs = ("tokenizer", f"corpora/{encoder.corpus}", *(f"encoders/{path.name}" for path in parents.values()))
        asked = {"command": encoder.command, **encoder.settings}
        return Stage(f"encoders/{encoder.name}", needs, command, folder, partial(is_finished, folder), asked)

    def encoder_folder(self, name: str) -> Path:
        """An encoder of the recipe."""
        return self.runs / "encoders" / name

    def parents_of(self, encoder: Encoder) -> dict[str, Path]:
        """The recipe's encoders that one is made of, by setting; others are folders or hub names."""
        named = {setting: str(encoder.settings.get(setting)) for setting in PARENTS}
        return {
            setting: self.encoder_folder(name)
            for setting, name in named.items()
            if name in self.recipe.encoders and name != encoder.name and not (setting == "start" and name in STARTS)
        }

    def references(self) -> Stage:
        """What the fine-tuned students are asked."""
        recipe, file = self.recipe, self.results / REFERENCES_FILE
        asked = {"task": _name(recipe.task), "locales": recipe.locales, "partition": recipe.partition}
        return Stage("references", (), self.write_references, file, file.is_file, asked)

    def write_references(self) -> None:
        """The work of `references`.

        Raises:
            StageError: the data has no domains, and a task needs them.
        """
        evaluated, train = self._evaluated()
        without = sum(not u.domain for rows in evaluated.values() for u in rows)
        if without and "dc" in self.recipe.tasks:
            raise StageError(f"{self.recipe.task}: {without} utterances have no domain, which the task dc needs")
        write_json(self.results / REFERENCES_FILE, references_of(evaluated, train, self.recipe.partition))

    def _evaluated(self) -> tuple[dict[str, list[Utterance]], list[Utterance]]:
        locales = list(self.recipe.locales)
        dataset = datasets.load(self.recipe.task, locales)
        part = dataset.part(self.recipe.partition, locales)  # type: ignore[arg-type]
        return by_locale(part, locales), dataset.part("train", locales)

    def finetuned(self, task: str, name: str, seed: int) -> list[Stage]:
        """An encoder fine-tuned on a task with a seed, and what it then answers."""
        recipe, parent = self.recipe, self.encoder_folder(name)
        folder = self.finetuned_folder(task, name, seed)
        settings = {**recipe.finetune, "heads": recipe.tasks[task], "locales": ",".join(recipe.locales), "seed": seed}
        flags = _flags({"data": recipe.task, "init": parent, **settings, "out": folder})
        command = ("training.finetune", *flags, "--resume")
        asked = {**settings, "data": _name(recipe.task)}
        run = f"{task}/{name}/{seed}"
        stage = Stage(f"finetuned/{run}", (f"encoders/{name}",), command, folder, partial(is_finished, folder), asked)
        answers, answer = self.answers_file(task, name, seed), partial(self.answer, task, name, seed)
        return [stage, Stage(f"results/{run}", (stage.name, "references"), answer, answers, answers.is_file)]

    def finetuned_folder(self, task: str, name: str, seed: int) -> Path:
        """An encoder of the recipe, fine-tuned."""
        return self.runs / "finetuned" / task / name / str(seed)

    def answers_file(self, task: str, name: str, seed: int) -> Path:
        """What a fine-tuned encoder answered."""
        return self.results / "runs" / task / name / f"{seed}.json.gz"

    def answer(self, task: str, name: str, seed: int) -> None:
        """Ask a fine-tuned encoder."""
        references = read_json(self.results / REFERENCES_FILE)
        found = outcomes_of(self.finetuned_folder(task, name, seed), self._evaluated()[0], references["domains"])
        run = {"task": task, "encoder": name, "seed": seed, "partition": self.recipe.partition, "locales": found}
        write_json(self.answers_file(task, name, seed), run)

    def noise(self) -> Stage:
        """How many hidden words the teachers find, in generic text that they held out and in the task's."""
        file, noise = self.results / "teachers.json", self.recipe.noise
        needs = ("references", *(f"encoders/{name}" for name in noise), *(f"corpora/{x}" for x in noise.values()))
        return Stage("noise", tuple(dict.fromkeys(needs)), self.write_noise, file, file.is_file, {"noise": noise})

    def write_noise(self) -> None:
        """The work of `noise`."""
        recipe = self.recipe
        evaluated, _ = self._evaluated()
        task = [u.text for rows in evaluated.values() for u in rows]
        found: dict[str, Any] = {}
        for name, corpus in recipe.noise.items():
            teacher = load_checkpoint(self.encoder_folder(name))
            first = recipe.encoders[next(iter(recipe.noise))]
            generic = unseen_lines(self.corpus_file(corpus), int(first.settings.get("seed", 1)))
            found[name] = {}
            for kind, texts in (("generic", generic), ("task", task)):
                chosen = random.Random(0).sample(texts, min(NOISE_TEXTS, len(texts)))
                correct, positions = masked_word_accuracy(teacher.model, teacher.encoder, chosen)
                if positions:  # a text that stands there several times was hardly held out
                    share = correct / positions
                    found[name][kind] = {"accuracy": share, "correct": correct, "positions": positions}
        write_json(self.results / "teachers.json", found)

    def similarity(self) -> Stage:
        """How near each domain's text is to the generic text of its language, for the tokenizer and for the teacher."""
        file = self.results / "similarity.json"
        needs = ("references", *(f"corpora/generic-{language}" for language in self.recipe.languages))
        needs += tuple(f"encoders/{name}" for name in list(self.recipe.noise)[:1])
        return Stage("similarity", needs, self.write_similarity, file, file.is_file)

    def write_similarity(self) -> None:
        """The work of `similarity`; the first teacher whose noise is measured is the one that is asked."""
        tokenizer = load_tokenizer(self.runs / "tokenizer.json")
        teacher = next((load_checkpoint(self.encoder_folder(name)) for name in self.recipe.noise), None)
        _, train = self._evaluated()
        found: dict[str, Any] = {}
        for locale in self.recipe.locales:
            nearby = self.corpus_file(f"generic-{locale.split('-')[0]}")
            generic = piece_counts(tokenizer, read_lines([str(nearby)]))
            found[locale] = {}
            for domain in sorted({u.domain for u in train if u.locale == locale and u.domain}):
                texts = [u.text for u in train if u.locale == locale and u.domain == domain]
                sample = sample_of_pieces(tokenizer, texts, SAMPLE_PIECES, seed=0)
                found[locale][domain] = {
                    "divergence": divergence(piece_counts(tokenizer, sample), generic),
                    "utterances": len(sample),
                }
                if teacher:
                    perplexity = pseudo_perplexity(teacher.model, teacher.encoder, sample)
                    found[locale][domain]["pseudo_perplexity"] = perplexity
        content = {"reference": "generic", "pieces": SAMPLE_PIECES, "locales": found}
        write_json(self.results / "similarity.json", content)

    def facts(self) -> Stage:
        """What the recipe, the texts and the encoders say of themselves; written each time, as it takes no time."""
        needs = tuple(f"encoders/{name}" for name in self.recipe.encoders)
        return Stage("facts", needs, self.write_facts, self.results / "recipe.json", lambda: False)

    def write_facts(self) -> None:
        """The work of `facts`."""
        recipe = self.recipe
        corpora = {name: json.loads(Path(f"{self.corpus_file(name)}.json").read_text()) for name in recipe.corpora}
        write_json(self.results / "corpora.json", corpora)
        encoders = {encoder.name: self._facts_of(encoder) for encoder in recipe.encoders.values()}
        write_json(self.results / "encoders.json", encoders)
        content = {
            "title": recipe.title,
            "tasks": list(recipe.tasks),
            "seeds": list(recipe.seeds),
            "comparisons": list(recipe.comparisons),
            "similarity_encoders": list(recipe.similarity_encoders),
            "fewest_point_utterances": recipe.fewest_point_utterances,
            "finetune": dict(recipe.finetune),
            "notes": list(recipe.notes),
        }
        write_json(self.results / "recipe.json", content)

    def _facts_of(self, encoder: Encoder) -> dict[str, Any]:
        training = json.loads((self.encoder_folder(encoder.name) / TRAINING_FILE).read_text())
        return {
            "title": encoder.title,
            "command": encoder.command,
            **{key: encoder.settings.get(key) for key in ("size", "corpus", "teacher", "init", "start", "chain")},
            "steps": training["steps"],
            "pieces": training["pieces_seen"],
            "parameters": training.get("parameters", [None, None])[1],
            "minutes": round(training["seconds"] / 60, 1),
            **training["held_out"],
        }


def unseen_lines(file: Path, seed: int) -> list[str]:
    """The lines of a text that a run with that seed held out, less those that stand elsewhere in it as well."""
    count = sum(1 for _ in read_lines([str(file)]))
    held_out = set(held_out_rows(count, seed).tolist())
    candidates, seen = {}, set()
    for row, text in enumerate(read_lines([str(file)])):
        if row in held_out and text not in candidates:
            candidates[text] = row
    for row, text in enumerate(read_lines([str(file)])):
        if text in candidates and candidates[text] != row and row not in held_out:
            seen.add(text)
    return [text for text in candidates if text not in seen]


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags = []
    for name, value in settings.items():
        if value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif value is not False and value != "":
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _name(place: str) -> str:
    """A file or folder without what is above it, which may change; a hub's name as it is."""
    return Path(place).name if Path(place).exists() else place
