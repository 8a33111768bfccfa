"""Convert a checkpoint to a student folder that the service can load.

    python -m export.onnx --ckpt CKPT --out students/s --eval DATA

Steps: export fp32, compare it with PyTorch on sentences of each locale, quantise, compare labels and quality, measure
latency, choose golden sentences, write the folder. A table goes to standard error, one JSON object ends standard
output.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from export.card import render_card
from export.comparison import PARITY_SENTENCES, agreement, latencies, logit_difference, rounded, sample_of_each_locale
from export.folder import ExportError, choose_golden, file_entries, new_folder, write_manifest
from export.graph import SESSION, export_fp32, quantise_int8, recipe_of
from service.manifest import MODEL_FILE, TOKENIZER_FILE, Architecture, Golden, Manifest, StudentError
from service.student import Student, open_session
from training import datasets
from training.augmentation import typed_copy
from training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, with_heads
from training.prediction import answers_of_student
from training.records import PARTITIONS, Utterance
from training.scoring import Answer, score_by_locale

log = logging.getLogger("export.onnx")

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


@dataclass(frozen=True)
class Evaluated:
    """The utterances that the export is judged on, and where golden sentences come from."""

    source: str
    partition: str
    utterances: list[Utterance]
    golden: list[Utterance]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Flags of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description="Convert a checkpoint to an ONNX student folder."
    )
    parser.add_argument("--ckpt", type=Path, required=True, help="checkpoint folder of training.finetune")
    parser.add_argument(
        "--out", type=Path, required=True, help="student folder to write; its name is the student's name"
    )
    parser.add_argument("--precision", choices=("int8", "fp32"), default="int8", help="(%(default)s)")
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
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    log.setLevel(logging.INFO)
    try:
        checkpoint = with_heads(load_checkpoint(args.ckpt), args.ckpt)
        data = read_data(args, checkpoint)
        notice = args.notice.read_text(encoding="utf-8") if args.notice else ""
        with new_folder(args.out) as folder:
            manifest = convert(checkpoint, folder, args.out.name, args.precision, data, notice)
    except (ExportError, CheckpointError, datasets.DatasetError, StudentError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(render(manifest), file=sys.stderr)
    print(json.dumps(summary(args.out, manifest), ensure_ascii=False))
    return 0


def read_data(args: argparse.Namespace, checkpoint: Checkpoint) -> Evaluated:
    """The evaluation partition in the checkpoint's locales, and candidates for golden sentences.

    Raises:
        DatasetError: a locale is missing.
    """
    locales = checkpoint.training["locales"]
    utterances = datasets.load(args.data, locales, args.on_error).part(args.partition, locales)
    golden: list[Utterance] = []
    for locale in dict.fromkeys(u.locale for u in utterances):
        try:
            golden += datasets.load(args.golden, [locale], args.on_error).part("dev", [locale])
        except datasets.DatasetError:
            log.warning(
                "%s has no %s: golden sentences of %s will stand in the manifest", args.golden, locale, args.data
            )
            golden += [u for u in utterances if u.locale == locale][:200]
    return Evaluated(Path(args.data).name, args.partition, utterances, golden)


def convert(checkpoint: Checkpoint, folder: Path, name: str, precision: str, data: Evaluated, notice: str) -> Manifest:
    """Everything from the loaded checkpoint to a complete student in `folder`; returns its manifest.

    Raises:
        ExportError: the graph doesn't compute what PyTorch does, or the name can't be a student's.
    """
    graphs = {"fp32": folder / "fp32.onnx"}
    export_fp32(checkpoint.model, graphs["fp32"])
    if precision == "int8":
        graphs["int8"] = folder / "int8.onnx"
        quantise_int8(graphs["fp32"], graphs["int8"])
    checkpoint.encoder.tokenizer.save(str(folder / TOKENIZER_FILE))
    shutil.copyfile(graphs[precision], folder / MODEL_FILE)
    draft = draft_manifest(checkpoint, folder, name, precision)
    students = {p: Student(draft, checkpoint.encoder, open_session(path, SESSION)) for p, path in graphs.items()}

    log.info("comparing fp32 with PyTorch")
    checked = sample_of_each_locale(data.utterances, PARITY_SENTENCES)
    difference = logit_difference(checkpoint.model, students["fp32"], checked)
    if max(difference.values()) > PARITY_TOLERANCE:
        raise ExportError(
            f"fp32 graph differs from PyTorch by {max(difference.values()):.2g} in a logit; allowed: {PARITY_TOLERANCE}"
        )
    log.info("scoring %s on %d utterances of %s", " and ".join(students), len(data.utterances), data.source)
    answers = {p: answers_of_student(student, data.utterances) for p, student in students.items()}
    manifest = draft.model_copy(
        update={
            "golden": choose_golden(students[precision], data.golden),
            "parity": {
                "sentences_per_locale": PARITY_SENTENCES,
                "fp32_max_abs_logit_difference": {k: float(f"{v:.3g}") for k, v in difference.items()},
                "agreement_with_fp32": agreement(data.utterances, answers["fp32"], answers[precision]),
            },
            "accuracy": accuracy(students[precision], data, answers),
            "latency": {"unit": "median microseconds of one session run, by pieces", **latencies(students)},
        }
    )
    for path in graphs.values():
        path.unlink()
    write_manifest(folder, manifest, render_card(manifest, notice))
    return manifest


def draft_manifest(checkpoint: Checkpoint, folder: Path, name: str, precision: str) -> Manifest:
    """The manifest as far as it is known before anything was measured."""
    config = checkpoint.model.config
    total, outside = checkpoint.model.count_parameters()
    try:
        return Manifest(
            name=name,
            size=config.size,
            precision=precision,  # type: ignore[arg-type]
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
            graph=recipe_of(precision),
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
    for precision, times in manifest.latency.items():
        if isinstance(times, dict):
            lines.append(
                f"{precision:9}" + "".join(f"{f'{pieces} pieces: {time:.0f} µs':>24}" for pieces, time in times.items())
            )
    return "\n".join(lines)


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
    }


if __name__ == "__main__":
    sys.exit(main())
