"""A record of how each stage of a study was made, so that a restarted study knows which stages are still valid.

RUNS/made holds a file for each stage: its settings, and the marks of the stages that it was made from. A stage gets a
new mark each time that it is made; so a student whose teacher was made again is recognised.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.data.files import read_json, write_json


class StageError(ValueError):
    """A stage that failed, or was made with other settings or stages; the message names it and the reason."""


@dataclass(frozen=True)
class Stage:
    """One step of a study: a function, which takes little time, or a command, which may take hours."""

    name: str  # path-like, unique
    needs: tuple[str, ...]  # names of the stages that must be done before
    work: Callable[[], None] | tuple[str, ...]  # the function, or the command's module and flags
    output: Path  # the file or folder that it makes
    is_whole: Callable[[], bool]  # whether the output is finished
    asked: Mapping[str, Any] = field(default_factory=dict)  # the settings that determine the output


@dataclass(frozen=True)
class Ledger:
    """The records of the stages, in `folder`."""

    folder: Path

    def todo(self, plan: Sequence[Stage]) -> list[Stage]:
        """The stages of a plan (each after those that it needs) that are unfinished or outdated.

        Raises StageError: the output of a command is outdated.
        """
        found: list[Stage] = []
        for stage in plan:
            different = self._different(stage, {x.name for x in found}) if stage.output.exists() else []
            if different and not callable(stage.work):
                way = f"remove {stage.output} to make it again, or choose another --out"
                raise StageError(f"{stage.name}: was made {'; '.join(different)}; {way}")
            if different or not stage.is_whole():
                found.append(stage)
        return found

    def begin(self, stage: Stage) -> None:
        """Record how a stage is made; call it before there is any output."""
        marks = {need: self._entry(need).get("mark") for need in stage.needs}
        entry = {"mark": uuid.uuid4().hex, "asked": dict(stage.asked), "of": marks}
        write_json(self._file(stage.name), entry)

    def _different(self, stage: Stage, remade: set[str]) -> list[str]:
        entry = self._entry(stage.name)
        if not entry:
            return ["in a way that is not recorded"]
        found, asked = entry["asked"], json.loads(json.dumps(dict(stage.asked)))
        keys = [key for key in dict.fromkeys([*asked, *found]) if found.get(key) != asked.get(key)]
        changed = [f"with {key} {found.get(key, 'left out')!r}, now {asked.get(key, 'left out')!r}" for key in keys]
        others = [need for need in stage.needs if need in remade or entry["of"].get(need) != self._entry(need)["mark"]]
        return changed + [f"from another {need}" for need in others]

    def _entry(self, name: str) -> dict[str, Any]:
        file = self._file(name)
        return dict(read_json(file)) if file.is_file() else {}

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
