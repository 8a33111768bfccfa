"""The report for a terminal: the most serious findings first, with examples and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from training.check import lengths
from training.check.findings import KINDS, Finding
from training.check.report import Report
from training.check.texts import labels_of, shown
from training.data.utterances import PARTITIONS

MAX_ROWS = 4  # utterances shown of a finding
MAX_LABELS = 15  # of a head, in the table of counts


def render(report: Report, source: str, examples: int) -> str:
    """The report as text, with up to `examples` findings of each kind."""
    sections = [_overview(report, source)]
    sections += [_section(report, kind, examples) for kind, found in report.findings.items() if found]
    sections += [_counts(report), _lengths(report)]
    if report.skipped:
        sections.append("Not checked\n" + "\n".join(f"  {reason}" for reason in report.skipped))
    return "\n\n".join(sections) + "\n"


def label_of(report: Report, position: int) -> str:
    """The label that the classifier learns, of an utterance."""
    return str(getattr(report.utterances[position], report.head))


def place_of(report: Report, position: int) -> str:
    """Where an utterance stands: file and line, id, locale and partition."""
    u = report.utterances[position]
    about = f"id {u.id}, {u.locale}, {u.partition}"
    return f"{report.places[position]} ({about})" if report.places else about


def _overview(report: Report, source: str) -> str:
    lines = [f"{source}: {len(report.utterances):,} utterances", ""]
    found = [(kind, findings) for kind, findings in report.findings.items() if findings]
    rows = [(KINDS[kind].level, kind, f"{len(findings):,}", f"{report.concerned(kind):,}") for kind, findings in found]
    if rows:
        lines += _table(("", "kind", "findings", "utterances"), rows, left=2)
    if clean := [kind for kind, findings in report.findings.items() if not findings]:
        lines += ["", f"Nothing found: {', '.join(clean)}."]
    for language, accuracy in report.accuracy().items():
        lines.append(f"A simple classifier predicts {accuracy:.1f} % of the {report.head}s ({language}, out of fold).")
    return "\n".join(lines)


def _section(report: Report, kind: str, examples: int) -> str:
    found = report.findings[kind]
    title, level, advice = KINDS[kind]
    lines = [f"{title} [{level}: {kind}, {len(found):,}]", f"  {advice}"]
    for number, finding in enumerate(found[:examples], 1):
        lines.append(f"  {number}. {finding.message}")
        lines += _rows(report, kind, finding)
    if len(found) > examples:
        lines.append(f"  ... and {len(found) - examples:,} more: --examples N, --json FILE or --html FILE show them")
    return "\n".join(lines)


def _rows(report: Report, kind: str, finding: Finding) -> Iterator[str]:
    text = [u.text for u in report.utterances]
    if kind == "confused_intents":
        for a, b in finding.pairs[:MAX_ROWS]:
            yield f"       {label_of(report, a)}: {text[a]!r}  |  {label_of(report, b)}: {text[b]!r}"
        return
    if kind in ("slot_overlaps", "rare_intents"):
        return
    for row in finding.rows[:MAX_ROWS]:
        labels = labels_of(report.utterances[row])
        label = "".join(f"{head} {shown(labels[head])}: " for head in finding.details.get("differs", ()))
        yield f"       {label}{text[row]!r}  {place_of(report, row)}"
    if kind == "label_errors":
        for _, other in finding.pairs:
            yield f"       most similar {label_of(report, other)}: {text[other]!r}"
    if len(finding.rows) > MAX_ROWS:
        yield f"       ... and {len(finding.rows) - MAX_ROWS:,} more"


def _counts(report: Report) -> str:
    lines = ["Utterances by label and partition (slots: annotated spans)"]
    for head, names in report.counts.items():
        if not names:
            continue
        ordered = sorted(names, key=lambda name: (-sum(names[name].values()), name))
        rows = [
            (name, *(f"{names[name].get(p, 0):,}" for p in PARTITIONS), f"{sum(names[name].values()):,}")
            for name in ordered[:MAX_LABELS]
        ]
        lines += ["", *_table((f"{head} ({len(names)})", *PARTITIONS, "all"), rows, left=1)]
        if len(ordered) > MAX_LABELS:
            lines.append(f"  ... and {len(ordered) - MAX_LABELS} rarer ones")
    return "\n".join(lines)


def _lengths(report: Report) -> str:
    summary = lengths.summary(report.utterances, report.lengths)
    title = f"Lengths under the tokenizer of student {summary['student']} (at most {summary['max_length']} tokens)"
    header = (
        "locale",
        "words 50 / 90 / 99 / 100 %",
        "tokens 50 / 90 / 99 / 100 %",
        "tokens a word",
        "unknown",
        "cut off",
    )
    rows = [
        (
            locale,
            " / ".join(map(str, found["words"].values())),
            " / ".join(map(str, found["tokens"].values())),
            f"{found['tokens_per_word']:.2f}",
            f"{found['unknown_rate']:.3%}",
            f"{found['truncated']:,}",
        )
        for locale, found in summary["locales"].items()
    ]
    return "\n".join([title, "", *_table(header, rows, left=1)])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table; the first `left` columns are left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return lines
