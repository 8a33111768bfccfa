"""Convert a checkpoint to a student folder that the service can load.

    python -m export.onnx --ckpt CKPT --out students/s --eval DATA

Steps: export fp32, compare it with PyTorch on sentences of each locale, quantise, compare labels and quality, fit
confidences and scope, measure latency, choose golden sentences, write the folder. A table goes to standard error, one
JSON object ends standard output.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from export.calibration import mean_errors, scope_head
from export.card import render_card
from export.comparison import PARITY_SENTENCES, agreement, latencies, logit_difference, rounded, sample_of_each_locale
from export.evaluated import Evaluated, read_data
from export.fitting import calibrate
from export.folder import ExportError, choose_golden, file_entries, new_folder, write_manifest
from export.gate import Gate, Loss, Scores
from export.graph import SESSION, export_fp32, part_sizes, quantise_int8, recipe_of, replace_features
from export.observation import Graph
from export.scope import means_by_method
from service.manifest import (
    MODEL_FILE,
    TOKENIZER_FILE,
    Architecture,
    Calibration,
    Golden,
    Manifest,
    StudentError,
)
from service.student import Student, open_session
from training import datasets
from training.augmentation import typed_copy
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, with_heads
from training.corpus import CorpusError
from training.modeling import StudentConfig
from training.prediction import answers_of_student
from training.records import PARTITIONS
from training.scoring import Answer, score_by_locale

log = logging.getLogger("export.onnx")

AUTO = "auto"
AUTO_DROP = 0.5  # points
SENSITIVITY_SENTENCES = 20  # of each locale
PARITY_TOLERANCE = 1e-3
REPORTED = (
    "domain_accuracy",
    "domain_f1",
    "intent_accuracy",
    "slot_f1",
    "slot_f1_strict",
    "exact_match",
    "semer",
    "irer",
)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description="Convert a checkpoint to an ONNX student folder."
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    parser.add_argument(
        "--out", type=Path, required=True, help="student folder to write; its name is the student's name"
    )
    parser.add_argument(
        "--precision",
        choices=("int8", "fp32", AUTO),
        default="int8",
        help=f"{AUTO}: int8 where it stays within --max-drop (then {AUTO_DROP:g}) and is faster here (%(default)s)",
    )
    parser.add_argument(
        "--max-drop",
        type=_points,
        metavar="POINTS",
        help="of accuracy, slot F1 or exact match that int8 may lose in any locale of --eval; if it loses more, the "
        "most sensitive nodes are kept in fp32, and if that doesn't do, nothing is written (any)",
    )
    parser.add_argument(
        "--eval",
        dest="data",
        default=str(datasets.SAMPLE),
        help="labelled data to judge the export on (the sample set)",
    )
    parser.add_argument("--partition", choices=PARTITIONS, default="dev", help="partition of --eval (%(default)s)")
    parser.add_argument(
        "--golden", default=str(datasets.SAMPLE), help="data whose sentences may stand in the manifest (the sample set)"
    )
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise", help="with a bad row (%(default)s)")
    parser.add_argument("--notice", type=Path, help="text for the model card: training data, attribution, licence")
    parser.add_argument(
        "--calibration",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="fit confidences and scope on the partition of --eval (%(default)s)",
    )
    parser.add_argument(
        "--out-of-scope",
        action="append",
        default=[],
        metavar="LOCALE=PATH[,PATH...]",
        help="text that is no request, to measure scope on: .txt or .txt.gz, one sentence a line, or clinc150's "
        "data_full.json; once for each locale (the project's own few sentences)",
    )
    parser.add_argument(
        "--false-rejection", type=_share, default=0.02, help="share of requests that scope may reject (%(default)s)"
    )
    return parser.parse_args(argv)


def _share(value: str) -> float:
    try:
        if 0 < (share := float(value)) < 1:
            return share
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{value}: allowed: a share between 0 and 1")


def _points(value: str) -> float:
    try:
        if 0 <= (points := float(value)) <= 100:
            return points
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{value}: allowed: points of percent, 0 to 100")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    try:
        checkpoint = with_heads(load_checkpoint(args.ckpt), args.ckpt)
        data = read_data(args, checkpoint.training["locales"])
        notice = args.notice.read_text(encoding="utf-8") if args.notice else ""
        with new_folder(args.out) as folder:
            rate = args.false_rejection if args.calibration else None
            manifest = convert(checkpoint, folder, args.out.name, args.precision, data, rate, args.max_drop)
            write_manifest(folder, manifest, render_card(manifest, notice))
        sizes = {**part_sizes(args.out / MODEL_FILE), "tokenizer": manifest.files[TOKENIZER_FILE].bytes}
    except (ExportError, CheckpointError, CorpusError, datasets.DatasetError, StudentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(manifest), file=sys.stderr)
    print("kB on disk: " + ", ".join(f"{part} {size / 1e3:.0f}" for part, size in sizes.items()), file=sys.stderr)
    print(json.dumps({**summary(args.out, manifest), "bytes": sizes}, ensure_ascii=False))
    return 0


def convert(
    checkpoint: Checkpoint,
    folder: Path,
    name: str,
    precision: str,
    data: Evaluated,
    rate: float | None,
    max_drop: float | None = None,
) -> Manifest:
    """Everything from the loaded checkpoint to graph and tokenizer in `folder`; returns their manifest.

    `rate` is the share of requests that scope may reject; None leaves calibration out. `max_drop` is what int8 may
    lose, in points; None lets it lose anything.

    Raises:
        ExportError: the checkpoint is no student, the graph doesn't compute what PyTorch does, int8 loses too much, or
            the name can't be a student's.
    """
    if not isinstance(checkpoint.model.config, StudentConfig):
        raise ExportError(
            f"a Hugging Face encoder ({checkpoint.model.config.size}) can't be exported, only this project's students: "
            "train one with training.finetune --teacher"
        )
    graphs = {"fp32": folder / "fp32.onnx"}
    export_fp32(
        checkpoint.model, graphs["fp32"], with_features=rate is not None and bool(scope_head(checkpoint.labels))
    )
    checkpoint.encoder.tokenizer.save(str(folder / TOKENIZER_FILE))
    served = folder / MODEL_FILE
    shutil.copyfile(graphs["fp32"], served)
    draft = draft_manifest(checkpoint, folder, name)

    def open_student(path: Path) -> Student:
        return Student(draft, checkpoint.encoder, open_session(path, SESSION))

    difference = check_parity(checkpoint, open_student(graphs["fp32"]), data)
    gate = None
    if precision != "fp32":
        graphs["int8"] = folder / "int8.onnx"
        precision, gate = quantise(graphs, precision, max_drop, open_student, data)
        draft = draft.model_copy(
            update={"precision": precision, "graph": recipe_of(precision, gate["kept_in_fp32"] if gate else ())}
        )
        shutil.copyfile(graphs[precision], served)
    students = {p: open_student(path) for p, path in graphs.items()}
    log.info("scoring %s on %d utterances of %s", " and ".join(students), len(data.utterances), data.source)
    answers = {p: answers_of_student(student, data.utterances) for p, student in students.items()}

    calibration = means = None
    if rate is not None:
        log.info("calibrating on %d utterances of %s", len(data.utterances), data.source)
        graph = Graph(open_session(served, SESSION), checkpoint.encoder)
        calibration, means = calibrate(graph, checkpoint.labels, data, rate)
    replace_features(served, means)
    manifest = draft.model_copy(update={"calibration": calibration, "files": file_entries(folder)})
    student = students[precision] = Student(manifest, checkpoint.encoder, open_session(served, SESSION))
    for path in graphs.values():
        path.unlink()
    return manifest.model_copy(
        update={
            "golden": choose_golden(student, data.golden),
            "parity": {
                "sentences_per_locale": PARITY_SENTENCES,
                "fp32_max_abs_logit_difference": {k: float(f"{v:.3g}") for k, v in difference.items()},
                "agreement_with_fp32": agreement(data.utterances, answers["fp32"], answers[precision]),
            },
            "accuracy": {**accuracy(student, data, answers), **({"gate": gate} if gate else {})},
            "latency": {"unit": "median microseconds of one session run, by pieces", **times_of(students)},
        }
    )


def quantise(
    graphs: dict[str, Path],
    precision: str,
    max_drop: float | None,
    open_student: Callable[[Path], Student],
    data: Evaluated,
) -> tuple[str, dict[str, Any] | None]:
    """Write the int8 graph beside the fp32 one, as far as it may lose what it does.

    With the precision "auto" its place in `graphs` is given up where it loses too much, or is no faster here.

    Returns:
        The precision to serve, and what the gate found, if there is one.

    Raises:
        ExportError: int8 is asked for and loses too much.
    """
    if precision != AUTO and max_drop is None:
        quantise_int8(graphs["fp32"], graphs["int8"])
        return "int8", None
    encode = open_student(graphs["fp32"]).encoder.encode
    sentences = [encode(u.text).ids for u in sample_of_each_locale(data.utterances, SENSITIVITY_SENTENCES)]

    def score(path: Path) -> Scores:
        return score_by_locale(data.utterances, answers_of_student(open_student(path), data.utterances))

    gate = Gate(AUTO_DROP if max_drop is None else max_drop, score, sentences)
    try:
        chosen = gate.quantise(graphs["fp32"], graphs["int8"])
        if precision == AUTO:
            require_faster({p: open_student(path) for p, path in graphs.items()})
    except ExportError as error:
        if precision != AUTO:
            raise
        log.info("%s: fp32 is served", error)
        graphs.pop("int8").unlink(missing_ok=True)
        return "fp32", None
    return "int8", gate.report(chosen)


def require_faster(students: dict[str, Student]) -> None:
    """Raise ExportError where int8 is no faster than fp32 on this machine."""
    times = latencies(students)
    slower = [pieces for pieces, time in times["int8"].items() if time >= times["fp32"][pieces]]
    if slower:
        raise ExportError(f"int8 is no faster here at {', '.join(slower)} pieces")


def times_of(students: dict[str, Student]) -> dict[str, Any]:
    """`latencies`, and what fp32 takes in multiples of int8."""
    times: dict[str, Any] = dict(latencies(students))
    if len(times) == 2:
        times["fp32_over_int8"] = {n: round(times["fp32"][n] / times["int8"][n], 2) for n in times["int8"]}
    return times


def check_parity(checkpoint: Checkpoint, student: Student, data: Evaluated) -> dict[str, float]:
    """The largest difference of a logit between PyTorch and its fp32 graph, by locale.

    Raises:
        ExportError: it is too large.
    """
    log.info("comparing fp32 with PyTorch")
    checked = sample_of_each_locale(data.utterances, PARITY_SENTENCES)
    difference = logit_difference(checkpoint.model, student, checked)
    if max(difference.values()) > PARITY_TOLERANCE:
        raise ExportError(
            f"fp32 graph differs from PyTorch by {max(difference.values()):.2g} in a logit; allowed: {PARITY_TOLERANCE}"
        )
    return difference


def draft_manifest(checkpoint: Checkpoint, folder: Path, name: str) -> Manifest:
    """The manifest as far as it is known before anything was quantised or measured."""
    config = checkpoint.model.config
    total, outside = checkpoint.model.count_parameters()
    try:
        return Manifest(
            name=name,
            size=config.size,
            precision="fp32",
            architecture=Architecture(
                layers=config.num_hidden_layers,
                hidden=config.hidden_size,
                attention_heads=config.num_attention_heads,
                feed_forward=config.intermediate_size,
                activation=config.activation,
                vocabulary=config.vocab_size,
                parameters=total,
                non_embedding_parameters=outside,
            ),
            labels=checkpoint.labels,
            locales=tuple(checkpoint.training["locales"]),
            max_length=config.max_position_embeddings,
            graph=recipe_of("fp32"),
            files=file_entries(folder),
            golden=(Golden(text="-", locale="-"),),
            training=without_history(checkpoint.training),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ExportError(f"{'.'.join(map(str, first['loc']))}: {first['input']!r}: {first['msg']}") from error


def without_history(training: dict[str, Any]) -> dict[str, Any]:
    """Training provenance less the scores of each epoch, here and in the checkpoints that it started from."""
    kept = {name: value for name, value in training.items() if name != "history"}
    return {**kept, "init": without_history(kept["init"])} if kept.get("init") else kept


def accuracy(student: Student, data: Evaluated, answers: dict[str, list[Answer]]) -> dict[str, Any]:
    """Quality per locale: of each precision on the evaluated partition, and of the served one on its typed copy."""
    typed = typed_copy(data.utterances)
    return {
        "data": data.source,
        "partition": data.partition,
        **{p: rounded(score_by_locale(data.utterances, found), REPORTED) for p, found in answers.items()},
        "typed": rounded(score_by_locale(typed, answers_of_student(student, typed)), REPORTED),
    }


def render(manifest: Manifest) -> str:
    """The comparison as a table for people."""
    accuracy_, same = manifest.accuracy, manifest.parity["agreement_with_fp32"]
    served = accuracy_[manifest.precision]
    names = [n for n in ("intent_accuracy", "slot_f1", "exact_match") if n in served["mean"]]
    shown = [("fp32", accuracy_["fp32"]), (manifest.precision, served), ("typed", accuracy_["typed"])]
    lines = [f"{accuracy_['partition']} of {accuracy_['data']}: fp32 / {manifest.precision} / its typed copy"]
    lines.append(f"{'':9}" + "".join(f"{n:>24}" for n in names) + f"{'labels as fp32':>24}")
    for locale in served:
        cells = [" / ".join(f"{scores[locale][n]:.1f}" for _, scores in shown) for n in names]
        alike = " / ".join(f"{value:.1f}" for value in same.get(locale, {}).values())
        lines.append(f"{locale:9}" + "".join(f"{cell:>24}" for cell in cells) + f"{alike:>24}")
    for precision in ("fp32", "int8"):
        cells = [f"{pieces} pieces: {time:.0f} µs" for pieces, time in manifest.latency.get(precision, {}).items()]
        lines += [f"{precision:9}" + "".join(f"{cell:>24}" for cell in cells)] if cells else []
    if gate := accuracy_.get("gate"):
        worst = Loss(**{name: value for name, value in gate["worst"].items() if name != "points"})
        kept = f"{len(gate['kept_in_fp32'])} nodes in fp32"
        lines.append(f"gate of {gate['max_drop']:g} points: passed; loses at most {worst}; {kept}")
    if manifest.calibration:
        lines += _calibration_lines(calibration_summary(manifest.calibration))
    return "\n".join(lines)


def _calibration_lines(found: dict[str, Any]) -> list[str]:
    errors = found["expected_calibration_error"].items()
    changes = [f"{head} {100 * e['before']:.1f} -> {100 * e['after']:.1f} %" for head, e in errors]
    lines = [f"calibration error: {', '.join(changes)} (slots by {found['slot_confidence']})"] if changes else []
    for method, figures in found["methods"].items():
        kept = ", kept" if method == found["scope"] else ""
        passed = f"{100 * figures['false_acceptance']:.1f} % of other text passes"
        lines.append(f"scope by {method}: AUROC {figures['auroc']:.3f}, {passed}{kept}")
    return lines


def summary(out: Path, manifest: Manifest) -> dict[str, Any]:
    """The machine-readable last line."""
    return {
        "student": str(out),
        "precision": manifest.precision,
        "digest": manifest.digest,
        "megabytes": round(sum(entry.bytes for entry in manifest.files.values()) / 1e6, 2),
        "accuracy": {p: manifest.accuracy[p]["mean"] for p in ("fp32", "int8", "typed") if p in manifest.accuracy},
        "latency": manifest.latency,
        "fp32_max_abs_logit_difference": max(manifest.parity["fp32_max_abs_logit_difference"].values()),
        "calibration": calibration_summary(manifest.calibration) if manifest.calibration else None,
    }


def calibration_summary(calibration: Calibration) -> dict[str, Any]:
    """Calibration errors as means over the locales, and how well scope is told, as means over locales and sources."""
    return {
        "expected_calibration_error": mean_errors(calibration.measured["expected_calibration_error"]),
        "slot_confidence": calibration.slot_confidence,
        "scope": calibration.scope.method if calibration.scope else None,
        "methods": means_by_method(calibration.measured.get("scope", {})),
    }


if __name__ == "__main__":
    sys.exit(main())
