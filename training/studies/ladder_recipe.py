"""The recipe of a ladder: adopt an encoder, fine-tune it as the teacher, distil students, export them.

An encoder of this project, a checkpoint or an exported student, is fine-tuned as it is.

Epochs are those that fit into a budget of time, by the speeds measured on this machine (`training.studies.budget`). The
recipe is a file that can be read, edited and run again.
"""

from __future__ import annotations

import copy
import json
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from service.student.shipped import named_folder, shipped_students
from training.data.datasets import HUB_PREFIX
from training.data.files import write_atomically
from training.models.adoption import outline
from training.models.checkpoint import existing_folder, is_own, load_checkpoint
from training.models.sizes import SIZES
from training.models.student import StudentConfig
from training.runs.finetuning import read_data
from training.runs.flags import listed
from training.runs.settings import FinetuneSettings
from training.studies.budget import Plan, Work, plan, seconds_by_stage
from training.studies.recipe import RecipeError, read_recipe
from training.studies.speed import Speed, measure, shape_of

log = logging.getLogger(__name__)

SAMPLE = 1024  # training texts whose lengths stand for all
BATCH_SIZE = 32
SHARED = {  # settings of every fine-tuned run
    "batch_size": BATCH_SIZE,
    "dropout": 0.1,
    "label_smoothing": 0.0,
    "augmented_share": 0.3,
    "unknown_share": 0.05,
}
PRETRAINED_RATE = 2.5e-4  # of the teacher, and of students that have its layers
TEACHER = {"learning_rate": PRETRAINED_RATE, "layer_decay": 0.9, "head_rate": 4.0}
OWN_RATES = {"xs": 1.5e-3, "s": 7e-4}  # of a shipped student that learns other data
RANDOM_RATES = {
    "xxs": 1.5e-3,
    "xs": 1.5e-3,
    "s": 1e-3,
    "m": 5e-4,
    "l": 4e-4,
    "xl": 2e-4,
    "xxl": 1e-4,
}  # of students with random blocks
CACHE = "logits"  # of the teacher, in the folder of the runs


@dataclass(frozen=True)
class Asked:
    """What the command asks for; `texts` are plain text for the vocabulary, `locales` "" are all of the data.

    `from_shipped`: a student narrower than the teacher starts from the shipped one of its size, where there is one.
    `starts`: checkpoints, or exported students, from which students start instead, by size.
    """

    encoder: str
    data: str
    sizes: tuple[str, ...]
    minutes: float
    revision: str = ""
    locales: str = ""
    texts: str = ""
    generic: str = ""
    tokens: int = 16_000
    controls: bool = False
    from_shipped: bool = False
    starts: Mapping[str, str] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """What the recipe's plan records, by which an interrupted ladder is recognised; "" is left out."""
        found = {
            "encoder": _name(self.encoder),
            "revision": self.revision,
            "data": _name(self.data),
            "locales": self.locales,
            "sizes": list(self.sizes),
            "minutes": self.minutes,
            "tokens": self.tokens,
            "texts": [_name(text) for text in listed(self.texts)],
            "controls": self.controls,
            **({"from_shipped": True} if self.from_shipped else {}),
            **({"starts": sorted(self.starts)} if self.starts else {}),
        }
        return {name: value for name, value in found.items() if value != ""}


def ladder_recipe(asked: Asked, file: Path, threads: int) -> Path:
    """Write the recipe, or keep the one that an interrupted ladder has written. Returns the file.

    Raises ValueError: encoder, data or sizes that can't be used, too few minutes, or a recipe of another ladder.
    """
    if file.exists():
        require_same(asked, file)
        log.info("continuing with %s", file)
        return file
    write_atomically(file, compose(asked, threads).encode())
    log.info("wrote %s", file)
    return file


def require_same(asked: Asked, file: Path) -> None:
    """Raise RecipeError where the recipe in `file` was written for something else."""
    plan, now = read_recipe(file).plan, asked.recorded()
    before = {name: value for name, value in plan.items() if name in {f.name for f in fields(Asked)}}
    changed = [
        f"{name} {before.get(name, 'left out')!r}, now {now.get(name, 'left out')!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if changed:
        ways = "choose another --out, remove it to plan again, or run it as it is with --recipe"
        raise RecipeError(f"{file}: was written with {'; '.join(changed)}; {ways}")


def compose(asked: Asked, threads: int) -> str:
    """The recipe's text. Raises ValueError: see `ladder_recipe`."""
    torch.set_num_threads(threads)  # as in the stages
    teacher, tokenizer = _outline(asked)
    below = {size: shape_of(size, teacher) for size in asked.sizes if size != teacher.size}
    data = read_data(FinetuneSettings(data=asked.data, locales=asked.locales))
    texts = [u.text for u in random.Random(0).sample(data.train, min(SAMPLE, len(data.train)))]
    longest = min(FinetuneSettings.max_length, teacher.max_position_embeddings)
    lengths = [min(len(found.ids), longest) for found in tokenizer.encode_batch_fast(texts)]
    speeds: dict[str, Speed] = {}
    for name, shape in {teacher.size: teacher, **below}.items():
        shape = copy.deepcopy(shape)
        shape.vocab_size = min(asked.tokens or shape.vocab_size, shape.vocab_size)
        speeds[name] = measure(shape, data.labels, lengths, BATCH_SIZE)
        log.info("%s: %.3f s a step, %.0f texts scored a second", name, speeds[name].step, 1 / speeds[name].scored)
    work = Work(
        train=len(data.train),
        dev=len(data.dev),
        batch_size=BATCH_SIZE,
        teacher=speeds[teacher.size],
        students={name: speeds[name] for name in below},
        runs=4 if asked.controls else 1,
        exported=tuple("" if size == teacher.size else size for size in asked.sizes),
    )
    chosen = plan(work, 60 * asked.minutes)
    same_width = [name for name, shape in below.items() if shape.hidden_size == teacher.hidden_size]
    minutes = {name: round(value / 60, 2) for name, value in seconds_by_stage(work, chosen, teacher.size).items()}
    return _text(asked, data.served, teacher.size, same_width, chosen, speeds, minutes)


def _outline(asked: Asked) -> tuple[StudentConfig, Tokenizer]:
    """The teacher's configuration and tokenizer. Raises CheckpointError: the encoder can't be used."""
    if not is_own(asked.encoder):
        return outline(asked.encoder, asked.revision)
    checkpoint = load_checkpoint(asked.encoder)
    return checkpoint.model.config, checkpoint.encoder.tokenizer


def _text(
    asked: Asked,
    locales: list[str],
    teacher: str,
    same_width: list[str],
    chosen: Plan,
    speeds: Mapping[str, Speed],
    minutes: Mapping[str, float],
) -> str:
    students = sorted(chosen.students, key=[*SIZES].index, reverse=True)
    shared = {**SHARED, **({"train_share": chosen.share} if chosen.share < 1 else {})}
    facts = {"expected_minutes": round(chosen.seconds / 60, 1), "train_share": chosen.share}
    title = f"Ladder of {_name(asked.encoder)}: {', '.join((teacher, *students))}"
    head = {"title": title, "data": _located(asked.data), "locales": locales, "partition": "dev"}
    own = is_own(asked.encoder)
    tables: dict[str, Mapping[str, Any]] = {
        "": {**head, **({"generic": _located(asked.generic)} if asked.generic else {})},
        "finetune": shared,
    }
    if not own:
        tables["runs.encoder"] = {
            "command": "adopt",
            "encoder": _located(asked.encoder),
            "revision": asked.revision,
            "tokens": asked.tokens,
            "texts": ",".join(map(_located, listed(asked.texts))),
        }
    tables[f"runs.{teacher}"] = {
        "title": f"{teacher}, the teacher",
        "init": str(existing_folder(asked.encoder).resolve()) if own else "encoder",
        "epochs": chosen.teacher,
        **TEACHER,
        **({"learning_rate": OWN_RATES[teacher]} if teacher in OWN_RATES else {}),
    }
    imitation = {"teacher": teacher, "teacher_cache": CACHE, "views": chosen.views}
    for size in students:
        of_size = {"size": size, "epochs": chosen.students[size]}
        random_rate = {"learning_rate": RANDOM_RATES[size]}
        rate = {"learning_rate": PRETRAINED_RATE} if size in same_width else random_rate
        start = {"init": teacher}
        if size in asked.starts:
            rate = {"learning_rate": PRETRAINED_RATE if size in same_width else OWN_RATES.get(size, PRETRAINED_RATE)}
            start = {"init": asked.starts[size]}
        elif asked.from_shipped and size not in same_width and size in shipped_students():
            rate, start = {"learning_rate": OWN_RATES[size]}, {"init": str(named_folder(size))}
        tables[f"runs.{size}"] = {"title": size, **of_size, **rate, **start, **imitation}
        if asked.controls:
            tokenizer = teacher if own else "encoder"
            scratch = {**of_size, **random_rate, "tokenizer": tokenizer}
            tables[f"runs.{size}-random"] = {"title": f"{size}, random weights, no teacher", **scratch}
            first = {"title": f"{size}, first weights, no teacher", **of_size, **rate, **start}
            tables[f"runs.{size}-first"] = first
            taught = {"title": f"{size}, random weights", **scratch, **imitation}
            tables[f"runs.{size}-random-distilled"] = taught
    tables["export"] = {"runs": list(asked.sizes), "precision": "auto"}
    tables["plan"] = {**asked.recorded(), **facts}
    tables["plan.minutes_by_stage"] = minutes
    tables["plan.seconds_per_step"] = {name: round(speed.step, 4) for name, speed in speeds.items()}
    tables["plan.seconds_per_text"] = {name: round(speed.scored, 6) for name, speed in speeds.items()}
    comparisons = [{"title": "Students and their teacher", "baseline": teacher, "runs": students}]
    for size in students if asked.controls else ():
        runs = [f"{size}-first", f"{size}-random-distilled", size]
        title = f"First weights and a teacher, for {size}"
        comparisons.append({"title": title, "baseline": f"{size}-random", "runs": runs})
    return _toml(tables, comparisons)


COMMENT = """\
# Written by training.ladder. It may be edited; then run: python -m training.ladder --recipe THIS --out RUNS
"""


def _toml(tables: Mapping[str, Mapping[str, Any]], comparisons: list[dict[str, Any]]) -> str:
    """TOML of tables by dotted name, "" for the top, and of the comparisons. Empty strings are left out."""
    parts = [COMMENT]
    named = [*((f"[{name}]", table) for name, table in tables.items()), *(("[[comparisons]]", x) for x in comparisons)]
    for name, table in named:
        parts += [name] if name != "[]" else []
        # JSON's strings, numbers, booleans and lists of strings are TOML's
        parts += [
            f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items() if value != ""
        ]
        parts.append("")
    return "\n".join(parts)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _located(place: str) -> str:
    """An absolute path where there is such a file or folder, else the name as it is."""
    return str(Path(place).resolve()) if not place.startswith(HUB_PREFIX) and Path(place).exists() else place


def _name(place: str) -> str:
    """The name of a file or folder without its parents; a hub's name unchanged."""
    return Path(place).resolve().name if Path(place).exists() else place
