"""Epochs of a teacher and its students within a budget of time, from measured speeds.

The teacher gets about half of the time. The rest is for its answers, of which the students imitate several variants of
each utterance, for the students, each size getting an equal share of what is left, cheapest first, and for their
exports. Each is trained for an epoch at least; where that takes too long, on a share of the training utterances.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from training.studies.speed import Speed

TEACHER_SHARE = 0.5
ANSWERS_SHARE = 0.25  # of the students' time, at most, for more than one variant of each utterance
MAX_EPOCHS = {"teacher": 12, "student": 50}
MAX_SMALL_EPOCHS = 80
MIN_STEPS = 1200  # that small data may have, beyond these epochs
MAX_VIEWS = 4
MIN_SHARE = 0.02  # of the training utterances
# Times that dev is scored beside once an epoch: as typed text, and for the report
FINAL_READINGS = 2
# Time of an export, in times of scoring dev: it reads one text at a time, in fp32 and int8, for quality, calibration
# and ways of typing. Beside that it measures latencies, in texts
EXPORT_READINGS, EXPORT_TEXTS = 6, 8000
OVERHEAD = 1.15  # data, saved states, start of the processes


class BudgetError(ValueError):
    """A budget that is too small; the message names the least."""


@dataclass(frozen=True)
class Work:
    """What is to be done: utterances, speeds of the teacher and of each size below it, and runs.

    `runs` of each size: 1, or more with control runs, of which `imitate` imitate the teacher. `exported` names the
    sizes that are exported, "" for the teacher.
    """

    train: int
    dev: int
    batch_size: int
    teacher: Speed
    students: Mapping[str, Speed]
    runs: int = 1
    exported: tuple[str, ...] = ()

    def training(self, speed: Speed, epochs: int, share: float = 1.0) -> float:
        """Seconds of a run of training."""
        steps = share * self.train / self.batch_size
        return OVERHEAD * (epochs * steps * speed.step + (epochs + FINAL_READINGS) * self.dev * speed.scored)

    def answers(self, views: int, share: float = 1.0) -> float:
        """Seconds in which the teacher reads `views` variants of each training utterance."""
        return OVERHEAD * views * share * self.train * self.teacher.text if self.students else 0.0

    def exports(self) -> float:
        """Seconds of all exports."""
        speeds = [self.students[name] if name else self.teacher for name in self.exported]
        return OVERHEAD * (EXPORT_READINGS * self.dev + EXPORT_TEXTS) * sum(speed.scored for speed in speeds)

    def least(self, share: float = 1.0) -> float:
        """Seconds of everything with one epoch each."""
        students = sum(self.runs * self.training(speed, 1, share) for speed in self.students.values())
        return self.training(self.teacher, 1, share) + self.answers(1, share) + students + self.exports()


@dataclass(frozen=True)
class Plan:
    """Epochs of the teacher and of each size, variants that the teacher reads, share of the utterances, and seconds."""

    teacher: int
    students: Mapping[str, int]
    views: int
    share: float
    seconds: float


def seconds_by_stage(work: Work, chosen: Plan, teacher: str) -> dict[str, float]:
    """The seconds of each part of a plan: the runs by the names of their stages, the teacher's answers, the exports."""
    parts = {f"runs/{teacher}": work.training(work.teacher, chosen.teacher, chosen.share)}
    if chosen.students:
        parts["teacher's answers"] = work.answers(chosen.views, chosen.share)
    for name, epochs in chosen.students.items():
        parts[f"runs/{name}"] = work.runs * work.training(work.students[name], epochs, chosen.share)
    if work.exported:
        parts["exports"] = work.exports()
    return parts


def plan(work: Work, seconds: float) -> Plan:
    """The epochs for a budget in seconds. Raises BudgetError: it is too small."""
    if work.least() > seconds:
        return _sampled(work, seconds)
    # A teacher without students gets everything. Students have their least time in any case.
    share = TEACHER_SHARE if work.students else 1.0
    rest_of_least = work.least() - work.training(work.teacher, 1)
    most = min(share * (seconds - (0 if work.students else work.exports())), seconds - rest_of_least)
    teacher = _epochs(work, work.teacher, most, MAX_EPOCHS["teacher"])
    left = seconds - work.training(work.teacher, teacher) - work.exports()
    if not work.students:
        return Plan(teacher, {}, 1, 1.0, seconds - left)
    least = {name: work.runs * work.training(speed, 1) for name, speed in work.students.items()}
    for_answers = min(ANSWERS_SHARE * left, left - sum(least.values()))
    views = max(v for v in range(1, MAX_VIEWS + 1) if v == 1 or work.answers(v) <= for_answers)
    left -= work.answers(views)
    epochs = {}
    for place, name in enumerate(sorted(least, key=lambda name: least[name])):
        others = sorted(least.values())[place + 1 :]
        most = min(left / (len(others) + 1), left - sum(others))
        epochs[name] = _epochs(work, work.students[name], most / work.runs, MAX_EPOCHS["student"])
        left -= work.runs * work.training(work.students[name], epochs[name])
    read = min(views, max(epochs.values()))
    left += work.answers(views) - work.answers(read)
    return Plan(teacher, {name: epochs[name] for name in work.students}, read, 1.0, seconds - left)


def _epochs(work: Work, speed: Speed, seconds: float, most: int) -> int:
    """The epochs, 1 to `most`, that a run can have in the time."""
    steps = max(1.0, work.train / work.batch_size)
    most = max(most, min(MAX_SMALL_EPOCHS, math.ceil(MIN_STEPS / steps)))
    return max(e for e in range(1, most + 1) if e == 1 or work.training(speed, e) <= seconds)


def _sampled(work: Work, seconds: float) -> Plan:
    """One epoch each, on the share of the utterances for which the time is enough."""
    fixed = work.least(0.0)
    share = (seconds - fixed) / (work.least() - fixed)
    if share < MIN_SHARE:
        least = work.least(MIN_SHARE) / 60
        raise BudgetError(
            f"--minutes {seconds / 60:g}: one epoch each on {MIN_SHARE:.0%} of the training utterances and the exports "
            f"take {least:.1f} minutes on this machine; allowed: at least that, fewer --sizes, or less --data"
        )
    share = math.floor(share * 1e4) / 1e4
    return Plan(1, dict.fromkeys(work.students, 1), 1, share, work.least(share))
