"""The stages of a study: what is run for each part of a recipe, what it needs, and how to tell that it is done."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training import datasets
from training.checkpoint import TRAINING_FILE, is_finished, load_checkpoint
from training.corpus import read_lines
from training.lines import held_out_rows
from training.outcomes import REFERENCES_FILE, by_locale, outcomes_of, read_json, references_of, write_json
from training.recipe import PARENTS, STARTS, Encoder, Recipe
from training.records import Utterance
from training.similarity import divergence, masked_word_accuracy, piece_counts, pseudo_perplexity, sample_of_pieces
from training.tokenizer import load_tokenizer

CORPUS_SUFFIX = ".txt.gz"
SAMPLE_PIECES = 1500  # of a domain's text that is compared with the generic text
NOISE_TEXTS = 2000  # of a kind and locale that teachers are asked to complete


class StageError(ValueError):
    """A stage that was done with other settings than the recipe's; the message says which."""


@dataclass(frozen=True)
class Stage:
    """One step of a study.

    Attributes:
        name: Path-like, unique.
        needs: Names of the stages that come first.
        work: A function, or the module and flags of a command.
        is_done: Whether there is nothing left to do; raises StageError where it was done otherwise.
        takes_threads: Whether the command has the flag `--threads`.
    """

    name: str
    needs: tuple[str, ...]
    work: Callable[[], None] | tuple[str, ...]
    is_done: Callable[[], bool]
    takes_threads: bool = False


def stages_of(recipe: Recipe, runs: Path) -> list[Stage]:
    """All stages of a recipe, each after those that it needs."""
    made = Maker(recipe, runs)
    stages = [made.tokenizer()]
    stages += [made.corpus(name) for name in recipe.corpora]
    stages += [made.encoder(encoder) for encoder in recipe.encoders.values()]
    stages.append(made.references())
    for seed in recipe.seeds:  # outermost: a study that is stopped early has fewer seeds of everything
        for task in recipe.tasks:
            for name in recipe.compared:
                stages += made.finetuned(task, name, seed)
    if recipe.noise:
        stages.append(made.noise())
    if recipe.similarity_encoders:
        stages += [made.nearby(language) for language in recipe.languages]
        stages.append(made.similarity())
    stages.append(made.facts())
    return stages


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
    return [stage for stage in stages if stage.name in needed]


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
        """One tokenizer for all encoders, trained on the task's and the generic text."""
        recipe, file = self.recipe, self.runs / "tokenizer.json"
        folders = ",".join(str(path) for path in _folders_of(Path(recipe.generic), recipe.languages))
        flags = {"data": recipe.task, "locales": ",".join(recipe.locales), "corpus": folders, **recipe.tokenizer}
        return Stage("tokenizer", (), ("training.tokenizer", *_flags({**flags, "out": file})), file.is_file)

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
        command = ("training.corpus", "build", *_flags({**own, **settings, "out": file}))

        def is_done() -> bool:
            manifest = file.with_name(f"{file.name}.json")
            if not file.is_file() or not manifest.is_file():
                return False
            _same(file, settings, json.loads(manifest.read_text())["arguments"])
            return True

        return Stage(f"corpora/{name}", ("tokenizer",), command, is_done)

    def encoder(self, encoder: Encoder) -> Stage:
        """A pretrained or distilled encoder."""
        folder = self.encoder_folder(encoder.name)
        parents = self.parents_of(encoder)
        settings = {**encoder.settings, **{setting: str(path) for setting, path in parents.items()}}
        flags = {**settings, "corpus": self.corpus_file(encoder.corpus)}
        if encoder.command == "pretrain" and "init" not in settings:
            flags["tokenizer"] = self.runs / "tokenizer.json"
        command = (f"training.{encoder.command}", *_flags({**flags, "out": folder}), "--resume")
        needs = ("tokenizer", f"corpora/{encoder.corpus}", *(f"encoders/{path.name}" for path in parents.values()))
        is_done = partial(_checkpoint_is_done, folder, settings, parents)
        return Stage(f"encoders/{encoder.name}", needs, command, is_done, takes_threads=True)

    def encoder_folder(self, name: str) -> Path:
        """An encoder of the recipe."""
        return self.runs / "encoders" / name

    def parents_of(self, encoder: Encoder) -> dict[str, Path]:
        """The recipe's encoders that one is made of, by setting; others are folders or hub names."""
        named = {setting: str(encoder.settings.get(setting)) for setting in PARENTS}
        return {
            setting: self.encoder_folder(name)
            for setting, name in named.items()
            if name in self.recipe.encoders and not (setting == "start" and name in STARTS)
        }

    def references(self) -> Stage:
        """What the fine-tuned students are asked."""
        return Stage("references", (), self.write_references, self.has_references)

    def write_references(self) -> None:
        """The work of `references`."""
        evaluated, train = self._evaluated()
        write_json(self.results / REFERENCES_FILE, references_of(evaluated, train, self.recipe.partition))

    def has_references(self) -> bool:
        """Whether the references are those of the recipe's partition."""
        file = self.results / REFERENCES_FILE
        return file.is_file() and read_json(file)["partition"] == self.recipe.partition

    def _evaluated(self) -> tuple[dict[str, list[Utterance]], list[Utterance]]:
        locales = list(self.recipe.locales)
        dataset = datasets.load(self.recipe.task, locales)
        part = dataset.part(self.recipe.partition, locales)  # type: ignore[arg-type]
        return by_locale(part, locales), dataset.part("train", locales)

    def finetuned(self, task: str, name: str, seed: int) -> list[Stage]:
        """An encoder fine-tuned on a task with a seed, and what it then answers."""
        recipe, parent = self.recipe, self.encoder_folder(name)
        folder = self.finetuned_folder(task, name, seed)
        settings = {**recipe.finetune, "heads": recipe.tasks[task], "seed": seed}
        own = {"data": recipe.task, "locales": ",".join(recipe.locales), "init": parent}
        command = ("training.finetune", *_flags({**own, **settings, "out": folder}), "--resume")
        is_done = partial(_checkpoint_is_done, folder, settings, {"init": parent})
        stage = Stage(f"finetuned/{task}/{name}/{seed}", (f"encoders/{name}",), command, is_done, takes_threads=True)
        answer, is_answered = partial(self.answer, task, name, seed), partial(self.is_answered, task, name, seed)
        return [stage, Stage(f"results/{task}/{name}/{seed}", (stage.name, "references"), answer, is_answered)]

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

    def is_answered(self, task: str, name: str, seed: int) -> bool:
        """Whether a fine-tuned encoder, as it stands there now, has been asked all of the recipe's partition."""
        file = self.answers_file(task, name, seed)
        training = self.finetuned_folder(task, name, seed) / TRAINING_FILE
        if not file.is_file() or not self.has_references() or not training.is_file():
            return False
        fresh = file.stat().st_mtime >= training.stat().st_mtime
        return fresh and bool(read_json(file)["partition"] == self.recipe.partition)

    def noise(self) -> Stage:
        """How many hidden words the teachers find, in generic text that they held out and in the task's."""
        needs = (*(f"encoders/{name}" for name in self.recipe.noise), "references")
        return Stage("noise", needs, self.write_noise, (self.results / "teachers.json").is_file)

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
                share = correct / max(1, positions)
                found[name][kind] = {"accuracy": share, "correct": correct, "positions": positions}
        write_json(self.results / "teachers.json", found)

    def similarity(self) -> Stage:
        """How near each domain's text is to the generic text of its language, for the tokenizer and for the teacher."""
        needs = [f"corpora/generic-{language}" for language in self.recipe.languages]
        needs += [f"encoders/{name}" for name in list(self.recipe.noise)[:1]]
        return Stage("similarity", tuple(needs), self.write_similarity, (self.results / "similarity.json").is_file)

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
        return Stage("facts", needs, self.write_facts, lambda: False)

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


def _checkpoint_is_done(folder: Path, settings: Mapping[str, Any], parents: Mapping[str, Path]) -> bool:
    """Whether a checkpoint is finished, and made with these settings of these parents. Raises StageError if not so."""
    if not is_finished(folder):
        return False
    training = json.loads((folder / TRAINING_FILE).read_text())
    _same(
        folder, {key: value for key, value in settings.items() if key not in ("corpus", *parents)}, training["settings"]
    )
    for setting, parent in parents.items():
        if setting != "start" and is_finished(parent):
            lineage = json.loads((parent / TRAINING_FILE).read_text())
            if training[setting] != lineage:
                raise StageError(
                    f"{folder}: was made of another {parent.name} than now stands there; remove the folder"
                )
    return True


def _same(place: Path, asked: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    # A recipe's 0 is recorded as 0.0, and its paths and tuples as text and lists
    different = [
        f"{key} {found.get(key)!r}, now {value!r}"
        for key, value in asked.items()
        if found.get(key) != value and str(found.get(key)) != str(value)
    ]
    if different:
        raise StageError(
            f"{place}: was made with {'; '.join(different)}; remove it to have it made anew, or choose another --out"
        )


def _flags(settings: Mapping[str, Any]) -> list[str]:
    flags = []
    for name, value in settings.items():
        if value is True:
            flags.append(f"--{name.replace('_', '-')}")
        elif value is not False and value != "":
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def _folders_of(generic: Path, languages: Sequence[str]) -> list[Path]:
    """The files and folders of the languages in a folder of plain sentences."""
    names = sorted(generic.iterdir()) if generic.is_dir() else []
    return [path for path in names if path.name.split(".")[0].split("-")[0] in languages]
