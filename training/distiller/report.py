"""The report of a search: importance of each part, and differences between its levels, by data size and student."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.data.files import write_atomically, write_json
from training.data.utterances import DatasetError
from training.distiller.analysis import Difference, by_data, contrasts, importance, matched
from training.distiller.observations import Observation, own, published, read_rows
from training.studies.effects_text import markdown_table

SMALL = 1000  # training utterances of a small data set
COLLAPSED = 0.6  # a few of these would decide a mean
PUBLISHED_SMALL = 10_000  # of the authors' data sets

Json = dict[str, Any]


def write_report(places: Sequence[Path], folder: Path | None, out: Path) -> Json:
    """Write report.md and report.json into `out`, and show the former. Returns a summary.

    `folder` holds the authors' runs, which get the same analysis. Raises DatasetError: rows can't be read, or there is
    no finished random trial.
    """
    rows = read_rows(places)
    content = {"own": analysed(own(rows), SMALL) if rows else {}}
    if rows and not content["own"]["trials"]:
        raise DatasetError(f"{', '.join(map(str, places))}: no random trial is finished")
    if folder is not None:
        content["published"] = analysed(published(folder), PUBLISHED_SMALL)
    text = render(content)
    write_json(out / "report.json", content)
    write_atomically(out / "report.md", text.encode())
    print(text, file=sys.stderr)
    trials = {name: part["trials"] for name, part in content.items() if part}
    return {"report": str(out / "report.md"), "trials": trials}


def analysed(observations: Sequence[Observation], small: int) -> Json:
    """The tables of a set of trials, for all of them, small and large data, and each student."""
    students = sorted({o.student for o in observations})
    subsets = {
        "all": list(observations),
        f"up to {small:,} rows": [o for o in observations if o.rows <= small],
        f"without collapsed runs, below {COLLAPSED} of the teacher": [o for o in observations if o.ratio >= COLLAPSED],
        f"more than {small:,} rows": [o for o in observations if o.rows > small],
        **{student: [o for o in observations if o.student == student] for student in students if len(students) > 1},
    }
    return {
        "trials": len(observations),
        "data": sorted({o.data for o in observations}),
        "students": students,
        "subsets": {
            name: {"trials": len(found), "importance": importance(found), "differences": _differences(found)}
            for name, found in subsets.items()
            if found and (name == "all" or len(found) < len(observations))
        },
    }


def _differences(observations: Sequence[Observation]) -> list[Json]:
    rows = []
    for part, level, baseline in contrasts(observations):
        asked = (observations, part, level, baseline)
        found = {"by_data": _rounded(by_data(*asked)), "matched": _rounded(matched(*asked))}
        rows.append({"part": part, "level": level, "baseline": baseline, **found})
    return rows


def _rounded(found: Difference | None) -> list[float] | None:
    return None if found is None else [*(round(x, 3) for x in found[:3]), found.groups]


TITLES = {"own": "Own trials", "published": "The authors' trials"}


def render(content: Json) -> str:
    """The report as Markdown."""
    lines = ["# Parts of distillation", ""]
    for name, found in content.items():
        if not found:
            continue
        counts = f"{found['trials']:,} trials, {len(found['data'])} data sets, {len(found['students'])} students"
        lines += [f"## {TITLES[name]}", "", f"{counts}."]
        lines += ["Differences are in points, with 95 % intervals and the number of groups that they rest on.", ""]
        for title, subset in found["subsets"].items():
            lines += [f"### {title[0].upper()}{title[1:]}: {subset['trials']:,} trials", ""]
            if subset["importance"]:
                shares = [(part, f"{100 * share:.1f} %") for part, share in subset["importance"].items()]
                lines += [*markdown_table(["part", "share of the variance"], shares), ""]
            rows = [
                (x["part"], x["level"], x["baseline"], _shown(x["by_data"]), _shown(x["matched"]))
                for x in subset["differences"]
            ]
            header = ["part", "level", "against", "within data set and student", "matched pairs"]
            lines += [*markdown_table(header, rows), ""]
    return "\n".join(lines)


def _shown(found: list[float] | None) -> str | None:
    if found is None:
        return None
    mean, low, high, groups = found
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] ({groups:,})"
