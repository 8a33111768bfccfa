"""From a loaded checkpoint to graph, tokenizer and manifest."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from export.calibration import scope_head
from export.comparison import PARITY_SENTENCES, agreement, latencies, logit_difference, rounded, sample_of_each_locale
from export.evaluated import Evaluated
from export.fitting import calibrate
from export.folder import ExportError, choose_golden, file_entries
from export.gate import Gate, Scores
from export.graph import export_fp32, quantise_int8, recipe_of, replace_features
from export.kernels import fastest_session
from export.observation import Graph
from service.student.manifest import MODEL_FILE, TOKENIZER_FILE, Architecture, Golden, Manifest, SessionOptions
from service.student.student import Student, open_session
from training.data.augmentation import typed_copy
from training.evaluation.scoring import Answer, score_by_locale
from training.models.checkpoint import Checkpoint
from training.models.prediction import answers_of_student
from training.models.student import StudentConfig

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


@dataclass(frozen=True)
class Wanted:
    """What an export is asked for.

    `precision` is "int8", "fp32" or `AUTO`; `max_drop` what int8 may lose, in points, None lets it lose anything;
    `rate` the share of requests that scope may reject, None leaves calibration out; `any_cpu` whether int8 must compute
    the same on x86-64 CPUs without VNNI.
    """

    name: str
    precision: str = "int8"
    max_drop: float | None = None
    rate: float | None = None
    any_cpu: bool = True


def require_student(checkpoint: Checkpoint) -> None:
    """Raise ExportError for a checkpoint of another architecture than this project's."""
    if not isinstance(checkpoint.model.config, StudentConfig):
        raise ExportError(
            f"a Hugging Face encoder ({checkpoint.model.config.size}) can't be exported, only this project's students: "
            "train one with training.finetune --teacher"
        )


def convert(checkpoint: Checkpoint, folder: Path, wanted: Wanted, data: Evaluated) -> Manifest:
    """Everything from the loaded checkpoint to graph and tokenizer in `folder`; returns their manifest.

    Raises:
        ExportError: the graph doesn't compute what PyTorch does, int8 loses too much, or the name can't be a student's.
    """
    graphs = write_graphs(checkpoint, folder, wanted)
    draft = draft_manifest(checkpoint, folder, wanted.name)
    encoder, served = checkpoint.encoder, folder / MODEL_FILE

    def open_as(path: Path, session: SessionOptions) -> Student:
        return Student(draft, encoder, open_session(path, session))

    session, fusion = fastest_session(graphs.get("int8", graphs["fp32"]), open_as)
    open_student = partial(open_as, session=session)
    parity = check_parity(checkpoint, open_student(graphs["fp32"]), data)
    precision, gate = quantise(graphs, wanted, open_student, data)
    recipe = recipe_of(precision, gate["kept_in_fp32"] if gate else (), session, wanted.any_cpu)
    draft = draft.model_copy(update={"precision": precision, "graph": recipe})
    shutil.copyfile(graphs[precision], served)
    students = {p: open_student(path) for p, path in graphs.items()}
    log.info("scoring %s on %d utterances of %s", " and ".join(students), len(data.utterances), data.source)
    answers = {p: answers_of_student(student, data.utterances) for p, student in students.items()}

    calibration = means = None
    if wanted.rate is not None:
        log.info("calibrating on %d utterances of %s", len(data.utterances), data.source)
        graph = Graph(open_session(served, session), encoder)
        calibration, means = calibrate(graph, checkpoint.labels, data, wanted.rate)
    replace_features(served, means)
    manifest = draft.model_copy(update={"calibration": calibration, "files": file_entries(folder)})
    student = students[precision] = Student(manifest, encoder, open_session(served, session))
    for path in graphs.values():
        path.unlink()
    agree = agreement(data.utterances, answers["fp32"], answers[precision])
    return manifest.model_copy(
        update={
            "golden": choose_golden(student, data.golden),
            "parity": {**parity, "agreement_with_fp32": agree},
            "accuracy": {**accuracy(student, data, answers), **({"gate": gate} if gate else {})},
            "latency": {**times_of(students), "fused_over_apart": fusion},
        }
    )


def write_graphs(checkpoint: Checkpoint, folder: Path, wanted: Wanted) -> dict[str, Path]:
    """The fp32 graph, and the plain int8 one unless fp32 is asked for; also a first `MODEL_FILE`, and the tokenizer."""
    graphs = {"fp32": folder / "fp32.onnx"}
    with_features = wanted.rate is not None and bool(scope_head(checkpoint.labels))
    export_fp32(checkpoint.model, graphs["fp32"], with_features=with_features)
    if wanted.precision != "fp32":
        graphs["int8"] = folder / "int8.onnx"
        quantise_int8(graphs["fp32"], graphs["int8"], any_cpu=wanted.any_cpu)
    checkpoint.encoder.tokenizer.save(str(folder / TOKENIZER_FILE))
    shutil.copyfile(graphs["fp32"], folder / MODEL_FILE)
    return graphs


def quantise(
    graphs: dict[str, Path], wanted: Wanted, open_student: Callable[[Path], Student], data: Evaluated
) -> tuple[str, dict[str, Any] | None]:
    """Quantise as far as it may lose what it does; what plain int8 is stands in `graphs`.

    With the precision `AUTO` its place there is given up where it loses too much, or is no faster here.

    Returns:
        The precision to serve, and what the gate found, if there is one.

    Raises:
        ExportError: int8 is asked for and loses too much.
    """
    if wanted.precision != AUTO and (wanted.max_drop is None or wanted.precision == "fp32"):
        return wanted.precision, None
    encode = open_student(graphs["fp32"]).encoder.encode
    sentences = [encode(u.text).ids for u in sample_of_each_locale(data.utterances, SENSITIVITY_SENTENCES)]

    def score(path: Path) -> Scores:
        return score_by_locale(data.utterances, answers_of_student(open_student(path), data.utterances))

    most = AUTO_DROP if wanted.max_drop is None else wanted.max_drop
    gate = Gate(most, score, sentences, any_cpu=wanted.any_cpu)
    try:
        chosen = gate.quantise(graphs["fp32"], graphs["int8"])
        if wanted.precision == AUTO:
            require_faster({p: open_student(path) for p, path in graphs.items()})
    except ExportError as error:
        if wanted.precision != AUTO:
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
    return {"unit": "median microseconds of one session run, by pieces", **times}


def check_parity(checkpoint: Checkpoint, student: Student, data: Evaluated) -> dict[str, Any]:
    """The number of sentences compared and the largest difference of a logit from PyTorch to fp32 graph, by locale.

    Raises:
        ExportError: it is too large.
    """
    checked = sample_of_each_locale(data.utterances, PARITY_SENTENCES)
    log.info("comparing fp32 with PyTorch on %d sentences", len(checked))
    difference = logit_difference(checkpoint.model, student, checked)
    worst = float(np.max(list(difference.values())))  # NaN where there is one
    if not worst <= PARITY_TOLERANCE:
        raise ExportError(f"fp32 graph differs from PyTorch by {worst:.2g} in a logit; allowed: {PARITY_TOLERANCE}")
    return {
        "sentences": {locale: sum(u.locale == locale for u in checked) for locale in difference},
        "fp32_max_abs_logit_difference": {locale: float(f"{found:.3g}") for locale, found in difference.items()},
    }


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
