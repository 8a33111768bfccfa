"""The stages of a recipe: the work of each part, what it needs, and how to tell that it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from service.student.manifest import MANIFEST_FILE
from training.models.checkpoint import is_finished
from training.runs.flags import listed
from training.studies import measures
from training.studies.layout import Layout, name_of
from training.studies.ledger import Stage, StageError
from training.studies.recipe import PARENTS, Recipe, RecipeError, Run, Settings, flags_of
from training.text.sources import LAYOUT, texts_by_language

TOKENIZER, REFERENCES, UTTERANCES, MAJORITY = "tokenizer", "references", "utterances", "majority"  # stages
TEXTS = (
    "corpus",
    "replay",
    "unlabelled",
    "out_of_scope",
    "texts",
)  # settings that name corpora of the recipe or sources of plain text


def needed_for(stages: Sequence[Stage], last: str) -> list[Stage]:
    """The stage of that name, or the group of stages ("runs"), and all that they need. Raises StageError: none."""
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
class StageBuilder:
    """Makes the stages of a recipe in a folder."""

    recipe: Recipe
    layout: Layout
    track: str = ""  # tracker of the runs

    def stages(self) -> list[Stage]:
        """All stages, each after those that it needs. Raises RecipeError: a text that is named is not there."""
        recipe = self.recipe
        stages = [self.corpus(name, {"locales": self._languages, **own}) for name, own in recipe.corpora.items()]
        for name, run in recipe.runs.items():
            if name in recipe.replicated:
                continue
            stages.append(self.run(f"runs/{name}", run, self.layout.run(name)))
            if not recipe.tasks and name in recipe.compared:
                stages.append(self.answers(name))
            if name in recipe.export.runs:
                stages.append(self.student(name))
        stages += self.of_tasks() if recipe.tasks else self.of_labels()
        if any(TOKENIZER in stage.needs for stage in stages):
            stages.append(self.tokenizer())
        return _in_order(stages)

    @property
    def _locales(self) -> str:
        return ",".join(self.recipe.locales)

    @property
    def _languages(self) -> str:
        return ",".join(self.recipe.languages)

    def tokenizer(self) -> Stage:
        """One tokenizer for all pretrained encoders, by default of the labelled data and of all generic text."""
        recipe, file = self.recipe, self.layout.tokenizer
        if adopted := str(recipe.tokenizer.get("run", "")):
            work = partial(measures.copy_tokenizer, self.layout, adopted)
            return Stage(TOKENIZER, (f"runs/{adopted}",), work, file, file.is_file, {"run": adopted})
        texts = texts_by_language(Path(recipe.require("generic")))
        every = [str(path) for language in recipe.languages for path in texts.get(language, ())]
        named = recipe.tokenizer.get("corpus")
        corpus = ",".join(self._files("tokenizer.corpus", str(named)) if named else every)
        if not corpus:
            raise RecipeError(f"{recipe.generic} holds no text in {', '.join(recipe.languages)}; allowed: {LAYOUT}")
        settings = {"data": recipe.data, "locales": self._locales, **recipe.tokenizer, "corpus": corpus, "out": file}
        asked = {**recipe.tokenizer, **self._asked_data(), "generic": _name(recipe.generic)}
        return Stage(TOKENIZER, (), ("training.tokenizer", *flags_of(settings)), file, file.is_file, asked)

    def corpus(self, name: str, settings: Mapping[str, Any]) -> Stage:
        """A transfer set."""
        recipe, file = self.recipe, self.layout.corpus(name)
        shared = {"data": recipe.data, "generic": recipe.require("generic"), "tokenizer": self.layout.tokenizer}
        # --force, as a killed build may have left its manifest
        command = ("training.corpus", "build", *flags_of({**shared, **settings, "out": file, "force": True}))
        asked = {**settings, "data": _name(recipe.data), "generic": _name(recipe.generic)}
        return Stage(f"corpora/{name}", (TOKENIZER,), command, file, file.is_file, asked)

    def run(self, name: str, run: Run, folder: Path) -> Stage:
        """A run of a training command."""
        settings, asked = dict(run.settings), {"command": run.command, **run.settings}
        needs = [f"runs/{parent}" for parent in self.recipe.parents_of(settings)]
        for setting in TEXTS:
            if setting in settings:
                named = str(settings[setting])
                needs += [f"corpora/{text}" for text in listed(named) if text in self.recipe.corpora]
                settings[setting] = ",".join(self._files(f"{name}.{setting}", named))
        for setting in PARENTS:
            if setting in settings:
                named = str(settings[setting])
                settings[setting] = ",".join(self._parent(setting, value) for value in listed(named))
        if "teacher_cache" in settings:
            settings["teacher_cache"] = str(self.layout.out / str(settings["teacher_cache"]))
        if run.command == "adopt":
            return self.adopted(name, settings, folder, needs)
        if run.command == "finetune" or settings.pop("data", False):
            settings |= {"data": self.recipe.data, "locales": self._locales}
            asked |= self._asked_data()
        if run.command == "pretrain" and not settings.get("init"):
            settings["tokenizer"] = str(self.layout.tokenizer)
            needs.append(TOKENIZER)
        track = {"track": self.track} if self.track else {}
        command = (f"training.{run.command}", *flags_of({**settings, **track, "out": folder}), "--resume")
        return Stage(name, tuple(dict.fromkeys(needs)), command, folder, partial(is_finished, folder), asked)

    def adopted(self, name: str, settings: Settings, folder: Path, needs: Sequence[str]) -> Stage:
        """An adopted encoder: its tokens are counted in the labelled data, and in `texts`."""
        asked: dict[str, Any] = {**settings, "encoder": _name(str(settings["encoder"]))}
        if "texts" in settings:
            asked["texts"] = [_name(file) for file in listed(str(settings["texts"]))]
        if settings.get("tokens"):
            settings = {**settings, "data": self.recipe.data, "locales": self._locales}
            asked |= self._asked_data()
        command = ("training.adopt", *flags_of({**settings, "out": folder, "force": True}))  # --force: as for a corpus
        return Stage(name, tuple(needs), command, folder, partial(is_finished, folder), asked)

    def student(self, name: str) -> Stage:
        """The exported student of a run."""
        export, folder = self.recipe.export, self.layout.student(name)
        settings = {key: value for key, value in export.model_dump(exclude={"runs"}).items() if value is not None}
        flags = flags_of({**settings, "data": self.recipe.data, "ckpt": self.layout.run(name), "out": folder})
        is_whole = (folder / MANIFEST_FILE).is_file
        asked = {**settings, "data": _name(self.recipe.data)}
        return Stage(f"students/{name}", (f"runs/{name}",), ("export.onnx", *flags), folder, is_whole, asked)

    def of_labels(self) -> list[Stage]:
        """What fine-tuned runs are compared on, and the most frequent labels."""
        files = {UTTERANCES: self.layout.utterances, MAJORITY: self.layout.majority}
        return [self.quick(name, (), file) for name, file in files.items()]

    def answers(self, name: str) -> Stage:
        """The answers of a fine-tuned run."""
        file = self.layout.answers(name)
        work = partial(measures.write_answers, self.layout, name)
        return Stage(f"answers/{name}", (f"runs/{name}", UTTERANCES), work, file, file.is_file)

    def of_tasks(self) -> list[Stage]:
        """The compared encoders fine-tuned on each task, their outcomes, and the measurements of teachers."""
        recipe, report, layout = self.recipe, self.recipe.report, self.layout
        stages = [self.quick(REFERENCES, (), layout.references)]
        # Contrasts first, then the other runs; of each, seeds are outermost, so that a study that is stopped early has
        # fewer seeds of everything.
        others = [name for name in recipe.compared if name not in recipe.confirmatory]
        for names in (recipe.confirmatory, others):
            for place in range(len(report.encoder_seeds)):
                for name in names:
                    if place < len(recipe.seeds_of(name)):
                        stages += self.encoder(name, recipe.seeds_of(name)[place])
        teachers = [f"runs/{name}" for name in report.noise]
        if teachers:
            texts = dict.fromkeys(f"corpora/{text}" for text in report.noise.values())
            file = layout.results / "teachers.json"
            stages.append(self.quick("noise", [*teachers, *texts], file, noise=report.noise))
        if runs := recipe.similarity.runs:
            texts = dict.fromkeys(recipe.text_of(name, locale) for name in runs for locale in recipe.similarity.locales)
            needs = [TOKENIZER, *(f"corpora/{text}" for text in texts)]
            asked = recipe.similarity.model_dump()
            stages.append(self.quick("similarity", needs, layout.results / "similarity.json", **asked))
        return stages

    def encoder(self, name: str, encoder_seed: int) -> list[Stage]:
        """A compared encoder with one seed, fine-tuned on each task with each seed, and the outcomes."""
        recipe, layout, stages, init = self.recipe, self.layout, list[Stage](), name
        if name in recipe.replicated:
            init, run = f"{name}/{encoder_seed}", recipe.runs[name]
            run = run.model_copy(update={"settings": {**run.settings, "seed": encoder_seed}})
            stages.append(self.run(f"runs/{init}", run, layout.run(init)))
        for seed in recipe.report.seeds:
            for task, heads in recipe.tasks.items():
                seeds, settings = (encoder_seed, seed), {**recipe.finetune, "heads": heads, "seed": seed}
                key = f"{task}/{name}/{name_of(seeds)}"
                run = Run(title=name, command="finetune", settings={**settings, "init": f"./runs/{init}"})
                stage = self.run(f"finetuned/{key}", run, layout.finetuned(task, name, seeds))
                stages.append(replace(stage, needs=(*stage.needs, f"runs/{init}")))
                work = partial(measures.write_outcomes, recipe, layout, task, name, seeds)
                file, needs = layout.outcomes(task, name, seeds), (f"finetuned/{key}", REFERENCES)
                stages.append(Stage(f"results/{key}", needs, work, file, file.is_file))
        return stages

    def quick(self, name: str, needs: Sequence[str], file: Path, **asked: Any) -> Stage:
        """A stage that calls `measures.write_NAME`."""
        work = partial(getattr(measures, f"write_{name}"), self.recipe, self.layout)
        selection_share = self.recipe.finetune.get("selection_share", 1.0)
        asked |= {**self._asked_data(), "partition": self.recipe.partition, "selection_share": selection_share}
        return Stage(name, tuple(needs), work, file, file.is_file, asked)

    def _asked_data(self) -> dict[str, Any]:
        return {"data": _name(self.recipe.data), "locales": self.recipe.locales}

    def _parent(self, setting: str, value: str) -> str:
        """A run's folder, a path relative to the study's folder, or the value itself."""
        if self.recipe.is_run(setting, value):
            return str(self.layout.run(value))
        return str(self.layout.out / value) if value.startswith(".") else value

    def _files(self, entry: str, named: str) -> list[str]:
        """The files of corpora of the recipe, or of sources in the languages of the locales."""
        recipe, files = self.recipe, list[str]()
        if all(Path(text).is_absolute() and Path(text).exists() for text in listed(named)):
            return listed(named)
        texts, root = texts_by_language(Path(recipe.require("generic"))), Path(recipe.generic).resolve().name
        places = [place for language in recipe.languages for place in texts.get(language, ())]
        for text in listed(named):
            if text in recipe.corpora:
                files.append(str(self.layout.corpus(text)))
                continue
            found = [file for place in places if place.is_dir() for file in sorted(place.iterdir())]
            found = [file for file in found if file.name.split(".")[0] == text]
            found += [place for place in places if place.is_file() and text == root]  # a file a language
            if not found:
                known = f"it has {', '.join(recipe.corpora) or 'no corpora'}"
                source = f"a source in {', '.join(recipe.languages)} of {recipe.generic}"
                raise RecipeError(f"{entry}: {text} is neither a corpus of the recipe ({known}) nor {source}")
            files += map(str, found)
        return files


def _in_order(stages: Sequence[Stage]) -> list[Stage]:
    """The stages in their order, but each after those that it needs."""
    by_name, ordered = {stage.name: stage for stage in stages}, dict[str, Stage]()

    def place(stage: Stage) -> None:
        for need in stage.needs if stage.name not in ordered else ():
            place(by_name[need])
        ordered.setdefault(stage.name, stage)

    for stage in stages:
        place(stage)
    return list(ordered.values())


def _name(place: str) -> str:
    """The name of a file or folder without its parents, which may change; a hub's name unchanged."""
    return Path(place).name if Path(place).exists() else place
