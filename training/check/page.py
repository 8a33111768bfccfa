"""The report as one HTML page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from training.check import lengths
from training.check.figures import figures
from training.check.findings import KINDS, Finding
from training.check.report import Report
from training.check.text import label_of, place_of
from training.data.utterances import PARTITIONS
from training.studies.drawing import PAGE_STYLE

MAX_FINDINGS = 100  # of a kind
MAX_OPEN = 10  # of a kind, not folded
MAX_ROWS = 5  # utterances of a finding
STYLE = """
td, .findings td:first-child { vertical-align: top; } .findings td { text-align: left; white-space: normal; }
.findings td:first-child { text-align: right; color: var(--soft-ink); } .findings { width: 100%; }
:root { --soft-ink: #666; --error: #b3261e; --warning: #8a5a00; --note: #35618e; }
@media (prefers-color-scheme: dark) {
  :root { --soft-ink: #a0a0a0; --error: #ff8a80; --warning: #ffca70; --note: #9cc7f5; } }
.level { font-size: 0.75rem; font-weight: 600; border: 1px solid; border-radius: 3px; padding: 0 0.35rem; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
.message { margin: 0; overflow-wrap: anywhere; } .rows { margin: 0.2rem 0 0; padding-left: 1.1rem; }
.place { color: var(--soft-ink); font-size: 0.8rem; overflow-wrap: anywhere; }
.pairs { width: 100%; table-layout: fixed; margin-top: 0.3rem; }
.findings .pairs td:first-child { text-align: left; color: inherit; }
.advice { font-style: italic; } td.text, th.text { text-align: left; } figcaption { color: #1b1b1b; font-weight: 600; }
"""


def page(report: Report, source: str) -> str:
    """The whole page; `source` is what the title calls the data."""
    title = f"Data report: {source}"
    body = [_overview(report)]
    body += [_section(report, kind) for kind, found in report.findings.items() if found]
    body += ["<h2>Figures</h2>", *(_figure(caption, svg) for caption, svg in figures(report).items())]
    body += [_lengths(report), *_counts(report), *_skipped(report)]
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}{STYLE}</style>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</html>\n"
    )


def _overview(report: Report) -> str:
    rows = []
    for kind, found in report.findings.items():
        if found:
            title, level, _ = KINDS[kind]
            link = f'<a href="#{kind}">{escape(title)}</a>'
            rows.append([_level(level), link, f"{len(found):,}", f"{report.concerned(kind):,}"])
    clean = [KINDS[kind].title for kind, found in report.findings.items() if not found]
    accuracy = [f"{value:.1f} % ({language})" for language, value in report.accuracy().items()]
    lines = [f"<p>{len(report.utterances):,} utterances in {', '.join(report.counts['locale'])}."]
    if accuracy:
        lines.append(f"Out of fold, a simple classifier predicts these {report.head}s right: {', '.join(accuracy)}.")
    lines.append("</p>")
    if rows:
        lines.append(_table(["", "", "findings", "utterances"], rows, text_columns=2))
    if clean:
        lines.append(f"<p>Nothing found: {escape('; '.join(clean))}.</p>")
    return "\n".join(lines)


def _section(report: Report, kind: str) -> str:
    found = report.findings[kind]
    title, level, advice = KINDS[kind]
    rows = [
        f"<tr><td>{number}</td><td>{''.join(_finding(report, kind, finding))}</td></tr>"
        for number, finding in enumerate(found[:MAX_FINDINGS], 1)
    ]
    parts = [f'<h2 id="{kind}">{escape(title)} {_level(level)}</h2>', f'<p class="advice">{escape(advice)}</p>']
    parts.append(_findings(rows[:MAX_OPEN]))
    if folded := rows[MAX_OPEN:]:
        parts.append(f"<details><summary>{len(folded)} more</summary>{_findings(folded)}</details>")
    if len(found) > MAX_FINDINGS:
        parts.append(f"<p>{MAX_FINDINGS} of {len(found):,} findings; <code>--json FILE</code> writes all.</p>")
    return "\n".join(parts)


def _findings(rows: Sequence[str]) -> str:
    return f'<table class="findings"><tbody>{"".join(rows)}</tbody></table>'


def _finding(report: Report, kind: str, finding: Finding) -> Iterator[str]:
    yield f'<p class="message">{escape(finding.message)}</p>'
    if finding.pairs and kind in ("confused_intents", "slot_overlaps", "near_leaks", "label_errors", "outliers"):
        cells = (f"<tr><td>{_row(report, a)}</td><td>{_row(report, b)}</td></tr>" for a, b in finding.pairs)
        yield f'<table class="pairs"><tbody>{"".join(cells)}</tbody></table>'
        return
    rows = [f"<li>{_row(report, row)}</li>" for row in finding.rows[:MAX_ROWS]]
    if len(finding.rows) > MAX_ROWS:
        rows.append(f"<li>and {len(finding.rows) - MAX_ROWS:,} more</li>")
    yield f'<ul class="rows">{"".join(rows)}</ul>'


def _row(report: Report, position: int) -> str:
    """An utterance with its slots marked, its label and its place."""
    u = report.utterances[position]
    parts, end = [], 0
    for slot in u.slots:
        parts.append(escape(u.text[end : slot.start]))
        parts.append(f'<mark title="{escape(slot.name)}">{escape(u.value(slot))}</mark>')
        end = slot.end
    text = "".join(parts) + escape(u.text[end:])
    names = f" [{', '.join(slot.name for slot in u.slots)}]" if u.slots else ""
    about = f"{label_of(report, position)}{names} · {place_of(report, position)}"
    return f'{text}<br><span class="place">{escape(about)}</span>'


def _lengths(report: Report) -> str:
    summary = lengths.summary(report.utterances, report.lengths)
    names = list(lengths.quantile_names())
    header = [
        "locale",
        *(f"words {n}" for n in names),
        *(f"tokens {n}" for n in names),
        "tokens a word",
        "unknown",
        "cut off",
    ]
    rows = [
        [
            escape(locale),
            *(str(found["words"][n]) for n in names),
            *(str(found["tokens"][n]) for n in names),
            f"{found['tokens_per_word']:.2f}",
            f"{found['unknown_rate']:.3%}",
            f"{found['truncated']:,}",
        ]
        for locale, found in summary["locales"].items()
    ]
    about = f"Tokenizer of student {summary['student']}, which reads {summary['max_length']} tokens. Quantiles."
    return f"<h2>Lengths</h2>\n<p>{escape(about)}</p>\n{_table(header, rows)}"


def _counts(report: Report) -> Iterator[str]:
    yield "<h2>Counts</h2>"
    for head, names in report.counts.items():
        if names:
            rows = [
                [escape(name), *(f"{n.get(p, 0):,}" for p in PARTITIONS), f"{sum(n.values()):,}"]
                for name, n in names.items()
            ]
            table = _table([head, *PARTITIONS, "all"], rows)
            yield f"<details><summary>{escape(head)}: {len(names)}</summary>{table}</details>"


def _skipped(report: Report) -> Iterator[str]:
    if report.skipped:
        yield "<h2>Not checked</h2>"
        yield "<ul>" + "".join(f"<li>{escape(reason)}</li>" for reason in report.skipped) + "</ul>"


def _figure(caption: str, svg: str) -> str:
    shown = escape(caption)
    return f'<figure role="img" aria-label="{shown}"><figcaption>{shown}</figcaption>{svg}</figure>'


def _level(level: str) -> str:
    return f'<span class="level {level}">{level}</span>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table of cells in HTML; the first columns are left-aligned."""

    def cell(tag: str, place: int, content: str) -> str:
        kind = ' class="text"' if place < text_columns else ""
        return f"<{tag}{kind}>{content}</{tag}>"

    head = "".join(cell("th", i, escape(name)) for i, name in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", i, content) for i, content in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
