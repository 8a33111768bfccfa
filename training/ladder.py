"""Train a ladder of students from a recipe, and say what each lever is worth.

    python -m training.ladder --recipe training/recipes/ladder-small.toml --data MASSIVE --generic GENERIC --out RUNS

A recipe is a TOML file of runs, each a command with its flags, and of tables that compare them::

    title = "What each lever is worth"
    locales = ["de-DE", "fr-FR"]
    [tokenizer]                        # flags of training.tokenizer: one for all pretrained encoders
    [pretrain]                         # flags of every run that is pretrained; [finetune] likewise
    [runs.encoder]
    command = "pretrain"
    corpus = "tatoeba,common_voice"    # sources: GENERIC/<language>/<source>.txt.gz in the languages of the locales
    [runs.teacher]                     # command = "finetune" goes without saying
    init = "encoder"                   # init, teacher and start may name other runs
    [[tables]]
    title = "From scratch or distilled"
    baseline = "scratch"
    runs = ["scratch", "distilled"]

What is done is skipped; what was interrupted goes on; a run that was made otherwise than the recipe now says is named.
Writes RUNS/ladder.md and RUNS/ladder.json: dev scores of each fine-tuned run, as PyTorch computes them, and what it
changes against the baseline of its table, on the same utterances.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training.data import datasets
from training.data.files import write_atomically
from training.data.utterances import Slot, Utterance
from training.evaluation.paired import compare
from training.evaluation.scoring import Answer, Scorecard
from training.models.checkpoint import TRAINING_FILE, is_finished, load_checkpoint, with_heads
from training.models.prediction import answers_of_model
from training.runs.settings import at_least_one, listed, report
from training.studies.ledger import Ledger, Stage
from training.studies.outcomes import read_json, write_json
from training.studies.scheduler import Scheduler
from training.text.sources import texts_by_language

COMMAND = "training.ladder"
COMMANDS = ("pretrain", "distill", "finetune")
PARENTS = ("init", "teacher", "start")  # settings that may name other runs
SOURCES = ("corpus", "unlabelled", "out_of_scope")  # settings that name sources of plain sentences
SECTIONS = ("title", "locales", "tokenizer", *COMMANDS, "runs", "tables")
TABLE = ("title", "baseline", "runs")
METRICS = {"exact_match": "exact match", "intent_accuracy": "intent accuracy", "slot_f1": "slot F1"}
FACTS = ("steps", "seconds", "best_epoch")  # of training.json, for the report
TOKENIZER = "tokenizer"

Json = dict[str, Any]


class LadderError(ValueError):
    """A recipe that can't be used; the message names file and entry, and what is allowed."""


@dataclass(frozen=True)
class Run:
    """One run of a recipe: its command, and that command's flags."""

    name: str
    title: str
    command: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Ladder:
    """A whole recipe. `tables` are as in the file."""

    title: str
    locales: tuple[str, ...]
    tokenizer: Mapping[str, Any]
    runs: Mapping[str, Run]
    tables: tuple[Mapping[str, Any], ...]

    @property
    def compared(self) -> list[str]:
        """The runs of the tables, in their order."""
        return list(dict.fromkeys(name for table in self.tables for name in (table["baseline"], *table["runs"])))


def read_ladder(path: Path) -> Ladder:
    """Read and check a recipe.

    Raises:
        LadderError: no such file, no TOML, or an entry that is missing, unknown or names nothing.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        ladder = _ladder_of(content)
        _check(ladder)
    except KeyError as error:
        raise LadderError(f"{path}: {error.args[0]} is missing") from error
    except (OSError, TypeError, AttributeError, ValueError) as error:
        raise LadderError(f"{path}: {error}") from error
    return ladder


def _ladder_of(content: Mapping[str, Any]) -> Ladder:
    if unknown := sorted(set(content) - set(SECTIONS)):
        raise ValueError(f"unknown sections {', '.join(unknown)}; allowed: {', '.join(SECTIONS)}")
    runs = {}
    for name, entry in content["runs"].items():
        command = entry.get("command", "finetune")
        if command not in COMMANDS:
            raise ValueError(f"runs.{name}: command {command!r}; allowed: {', '.join(COMMANDS)}")
        own = {key: value for key, value in entry.items() if key not in ("title", "command")}
        runs[name] = Run(name, entry.get("title", name), command, {**content.get(command, {}), **own})
    for table in content["tables"]:
        if unknown := sorted(set(table) - set(TABLE)):
            raise ValueError(f"tables: unknown {', '.join(unknown)}; allowed: {', '.join(TABLE)}")
    return Ladder(
        content["title"], tuple(content["locales"]), content.get(TOKENIZER, {}), runs, tuple(content["tables"])
    )


def _check(ladder: Ladder) -> None:
    finetuned = [name for name, run in ladder.runs.items() if run.command == "finetune"]
    if missing := [name for name in ladder.compared if name not in finetuned]:
        raise ValueError(f"tables name {', '.join(missing)}; runs that are fine-tuned: {', '.join(finetuned)}")
    for run in ladder.runs.values():
        above: list[str] = [run.name]
        open_ = list(parents_of(run, ladder.runs))
        while open_:
            name = open_.pop()
            if name == run.name:
                raise ValueError(f"runs.{run.name}: can't be made of itself")
            if name not in above:
                above.append(name)
                open_ += parents_of(ladder.runs[name], ladder.runs)


def parents_of(run: Run, runs: Mapping[str, Run]) -> list[str]:
    """The runs that one is made of."""
    named = [part for setting in PARENTS for part in listed(str(run.settings.get(setting, "")))]
    return list(dict.fromkeys(name for name in named if name in runs))


@dataclass(frozen=True)
class Maker:
    """Makes the stages of a recipe in a folder."""

    ladder: Ladder
    data: str
    generic: Path
    out: Path

    def stages(self) -> list[Stage]:
        """All stages, each after those that it needs.

        Raises:
            LadderError: a source is not there in any of the languages.
        """
        runs, ordered = self.ladder.runs, dict[str, Stage]()

        def place(name: str) -> None:
            if name not in ordered:
                for parent in parents_of(runs[name], runs):
                    place(parent)
                ordered[name] = self._run(runs[name])

        for name in runs:
            place(name)
        tokenizer = [self._tokenizer()] if any(TOKENIZER in stage.needs for stage in ordered.values()) else []
        stages = tokenizer
        for name, stage in ordered.items():  # what a run answers right after it, so that a report need not wait for all
            stages += [stage, *([self._answers(name)] if name in self.ladder.compared else [])]
        return stages

    def _tokenizer(self) -> Stage:
        file, settings = self.out / "tokenizer.json", self.ladder.tokenizer
        flags = {"data": self.data, "locales": ",".join(self.ladder.locales), **self._located(settings), "out": file}
        asked = {**settings, "locales": self.ladder.locales}
        return Stage(TOKENIZER, (), ("training.tokenizer", *_flags(flags)), file, file.is_file, asked)

    def _run(self, run: Run) -> Stage:
        folder, parents = self.folder_of(run.name), parents_of(run, self.ladder.runs)
        flags = self._located(run.settings)
        needs = list(parents)
        if run.command != "distill":
            flags |= {"data": self.data, "locales": ",".join(self.ladder.locales)}
        if run.command == "pretrain" and "init" not in flags:
            needs.append(TOKENIZER)
            flags["tokenizer"] = self.out / "tokenizer.json"
        command = (f"training.{run.command}", *_flags({**flags, "out": folder}), "--resume")
        asked = {"command": run.command, "locales": self.ladder.locales, **run.settings}
        return Stage(run.name, tuple(needs), command, folder, partial(is_finished, folder), asked)

    def _answers(self, name: str) -> Stage:
        file = self.answers_file(name)
        return Stage(f"answers/{name}", (name,), partial(self.answer, name), file, file.is_file)

    def folder_of(self, name: str) -> Path:
        """A run's checkpoint."""
        return self.out / "runs" / name

    def answers_file(self, name: str) -> Path:
        """What a run answers."""
        return self.out / "answers" / f"{name}.json.gz"

    def dev(self) -> list[Utterance]:
        """What is asked."""
        locales = list(self.ladder.locales)
        return datasets.load(self.data, locales).part("dev", locales)

    def answer(self, name: str) -> None:
        """Ask a fine-tuned run."""
        folder = self.folder_of(name)
        checkpoint = with_heads(load_checkpoint(folder), folder)
        answers = answers_of_model(checkpoint.model, checkpoint.encoder, checkpoint.labels, self.dev())
        told = [
            [answer.domain, answer.intent, [[s.name, s.start, s.end] for s in answer.slots or ()]] for answer in answers
        ]
        training = json.loads((folder / TRAINING_FILE).read_text())
        facts = {key: training[key] for key in FACTS}
        write_json(self.answers_file(name), {**facts, "answers": told})

    def _located(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings with runs as their folders and sources as their files."""
        located = dict(settings)
        for setting in set(PARENTS) & set(settings):
            names = listed(str(settings[setting]))
            located[setting] = ",".join(str(self.folder_of(x)) if x in self.ladder.runs else x for x in names)
        for setting in set(SOURCES) & set(settings):
            located[setting] = ",".join(file for name in listed(settings[setting]) for file in self._files(name))
        return located

    def _files(self, source: str) -> list[str]:
        languages = dict.fromkeys(locale.split("-")[0] for locale in self.ladder.locales)
        texts, found = texts_by_language(self.generic), []
        for place in (place for language in languages for place in texts.get(language, ())):
            if place.is_dir():
                found += [str(file) for file in sorted(place.iterdir()) if file.name.split(".")[0] == source]
            elif source == self.generic.resolve().name:  # a file a language, with no source of its own
                found.append(str(place))
        if not found:
            raise LadderError(f"source {source}: {self.generic} holds none of that name in {', '.join(languages)}")
        return found


def report_of(maker: Maker) -> Json:
    """What the compared runs that are done score, and what each changes in its tables.

    Raises:
        LadderError: none is done.
    """
    ladder, dev = maker.ladder, maker.dev()
    runs: dict[str, Json] = {}
    cards: dict[str, Scorecard] = {}
    done = [name for name in ladder.compared if maker.answers_file(name).is_file()]
    if not done:
        raise LadderError(f"{maker.out}: no run of the tables is done")
    for name in done:
        told = read_json(maker.answers_file(name))
        answers = [
            Answer(domain, intent, tuple(Slot(*slot) for slot in slots))
            for domain, intent, slots in told.pop("answers")
        ]
        cards[name] = Scorecard.of(dev, answers)
        run = ladder.runs[name]
        facts = {key: told[key] for key in FACTS}
        runs[name] = {"title": run.title, "settings": dict(run.settings), **facts, **cards[name].report()}
    tables = []
    for table in ladder.tables:
        baseline = table["baseline"]
        others = [name for name in table["runs"] if name != baseline and name in cards and baseline in cards]
        tables.append({**table, "changes": {name: compare(cards[name], cards[baseline])["mean"] for name in others}})
    return {
        "title": ladder.title,
        "data": Path(maker.data).name,
        "partition": "dev",
        "runs": runs,
        "missing": [name for name in ladder.compared if name not in runs],
        "tables": tables,
    }


def render(content: Json) -> str:
    """The report as Markdown."""
    first = next(iter(content["runs"].values()))
    lines = [
        f"# {content['title']}",
        "",
        f"{content['partition']} of {content['data']}, mean of {', '.join(first['mean_over'])}, in percent, as PyTorch "
        "computes it. The epoch was chosen on the same partition, for all alike. In brackets 95 % intervals of the "
        "difference, over utterances; one seed each, so differences of a point may be the seed's.",
    ]
    if content["missing"]:
        lines += ["", f"Not done yet: {', '.join(content['missing'])}."]
    for table in content["tables"]:
        if table["baseline"] not in content["runs"]:
            continue
        head = ["", *METRICS.values(), f"exact match against {content['runs'][table['baseline']]['title']}", "steps"]
        lines += ["", f"## {table['title']}", "", _row(head), _row(["---"] * len(head))]
        for name in (name for name in table["runs"] if name in content["runs"]):
            run, changes = content["runs"][name], table["changes"].get(name)
            cells = [f"{run['mean'][metric][0]:.1f}" for metric in METRICS]
            change = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*changes["exact_match"]) if changes else "-"
            lines.append(_row([run["title"], *cells, change, f"{run['steps']:,}"]))
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _flags(settings: Mapping[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    parser = argparse.ArgumentParser(prog=f"python -m {COMMAND}", description="Train a ladder of students.")
    parser.add_argument("--recipe", type=Path, required=True, help="TOML file; some stand in training/recipes")
    parser.add_argument("--data", required=True, help="labelled data: folder, tarball, file or hub:NAME")
    parser.add_argument("--generic", type=Path, required=True, help="folder of plain sentences")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; what is done there is skipped")
    parser.add_argument(
        "--jobs", type=at_least_one, default=1, help="runs at once, each with its share of the cores (%(default)s)"
    )
    parser.add_argument("--report", action="store_true", help="train nothing: report on the runs that are done")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    return report(partial(run_ladder, args))


def run_ladder(args: argparse.Namespace) -> Json:
    """Do all runs that are not done, and report. Returns the summary.

    Raises:
        LadderError: the recipe can't be used.
        StageError: a run failed, or stands there with other settings.
    """
    maker = Maker(read_ladder(args.recipe), args.data, args.generic, args.out)
    plan = maker.stages()
    todo: list[Stage] = []
    if not args.report:
        args.out.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(args.out / "made")
        todo = ledger.todo(plan)
        Scheduler(plan, ledger, args.out / "logs", args.jobs, "ladder").run(todo)
    content = report_of(maker)
    text = render(content)
    write_json(args.out / "ladder.json", content)
    write_atomically(args.out / "ladder.md", text.encode())
    print(text, file=sys.stderr)
    scores = {name: run["mean"]["exact_match"][0] for name, run in content["runs"].items()}
    return {"report": str(args.out / "ladder.md"), "done_now": len(todo), "exact_match": scores}


if __name__ == "__main__":
    sys.exit(main())
