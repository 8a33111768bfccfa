"""From a checkpoint to a student folder; start reading at `export_student`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from export.calibration import fit_confidences, observe, profiles
from export.data import ExportData, Options, read_data
from export.folder import ExportError, new_folder
from export.gate import Gate, drops_of, quantise_within, warn
from export.golden import choose_golden, tolerance_of
from export.graph import export_fp32, recipe_of
from export.latency import fastest_session, latencies, measure_latency, saturates
from export.quality import accuracy, agreement, check_parity, first_of_each_locale, typed_drops
from export.quantization import by_sensitivity, quantise_int8
from export.report import render_card
from export.scope import fit_scope
from export.trimming import chosen_locales, compare, trim
from service.student.manifest import (
    CARD_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    TOKENIZER_FILE,
    Architecture,
    Calibration,
    FileEntry,
    Manifest,
    SessionOptions,
)
from service.student.predictor import Predictor, open_session
from service.student.student import Student
from training.evaluation.scoring import PredictedLabels, annotated_counts
from training.models.checkpoint import Checkpoint, load_checkpoint, with_heads
from training.models.prediction import answers_of_student
from training.models.student import StudentConfig, StudentModel

log = logging.getLogger(__name__)

SENSITIVITY_SENTENCES = 20  # of each locale


def export_student(options: Options) -> Manifest:
    """Export a checkpoint to a student folder. The folder appears when it is complete.

    Raises:
        ExportError: the graph differs from PyTorch, int8 loses too much, or the flags are inconsistent.
        CheckpointError, DatasetError, CorpusError, OSError: an input can't be read or the folder can't be written.
        StudentError: the service would refuse the folder.
    """
    if options.cpu == "vnni" and options.precision != "fp32" and saturates():
        raise ExportError(
            "--cpu vnni: this CPU saturates the sums of 8-bit weights; export on a CPU with VNNI or use --cpu any"
        )
    checkpoint = load_student(options.ckpt)
    locales = chosen_locales(options.locales, checkpoint.training["locales"])
    data = read_data(options, locales)
    notice = options.notice.read_text(encoding="utf-8") if options.notice else ""
    with new_folder(options.out) as folder:
        trimming = None
        if options.locales:
            trimmed = trim(checkpoint, data.vocabulary, locales)
            trimming, checkpoint = compare(checkpoint, trimmed, data.utterances), trimmed.checkpoint
        manifest = convert(checkpoint, data, options, folder, trimming)
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        (folder / CARD_FILE).write_text(render_card(manifest, notice), encoding="utf-8")
        Student.load(folder)  # the checks of the service
    return manifest


def load_student(ckpt: Path) -> Checkpoint:
    """Load a checkpoint that can be exported.

    Raises:
        CheckpointError: it can't be loaded, or it has no heads.
        ExportError: it is not a student of this project.
    """
    checkpoint = with_heads(load_checkpoint(ckpt), ckpt)
    if not isinstance(checkpoint.model.config, StudentConfig):
        raise ExportError(
            f"a Hugging Face encoder ({checkpoint.model.config.size}) can't be exported, only this project's students: "
            "train one with training.finetune --teacher, or adopt the encoder with training.adopt before fine-tuning"
        )
    return checkpoint


def convert(
    checkpoint: Checkpoint, data: ExportData, options: Options, folder: Path, trimming: dict[str, Any] | None
) -> Manifest:
    """Write graph and tokenizer into `folder`, measure them, and build the manifest."""
    labels, encoder, any_cpu = checkpoint.labels, checkpoint.encoder, options.cpu == "any"
    graphs = {"fp32": folder / "fp32.onnx"}
    export_fp32(checkpoint.model, graphs["fp32"])
    if options.precision != "fp32":
        graphs["int8"] = folder / "int8.onnx"
        quantise_int8(graphs["fp32"], graphs["int8"], any_cpu=any_cpu)

    def open_graph(graph: Path, session: SessionOptions, **more: Any) -> Predictor:
        return Predictor(labels, encoder, open_session(graph, session), **more)

    session, fused_over_apart = fastest_session(graphs.get("int8", graphs["fp32"]), open_graph)
    predictor_of = partial(open_graph, session=session)
    parity = check_parity(checkpoint.model, predictor_of(graphs["fp32"]), data.utterances)

    log.info("scoring %s on %d utterances of %s", " and ".join(graphs), len(data.utterances), data.source)
    answers = {"fp32": answers_of_student(predictor_of(graphs["fp32"]), data.utterances)}
    gate = pass_gate(graphs, predictor_of, data, answers["fp32"], options) if "int8" in graphs else None
    if gate:
        answers["int8"] = list(gate.answers)
    precision: Literal["fp32", "int8"] = "int8" if gate else "fp32"
    predictors = {name: predictor_of(graph) for name, graph in graphs.items()}

    calibration = calibrate(predictors[precision], data, options.false_rejection) if options.calibration else None
    graphs.pop(precision).rename(folder / MODEL_FILE)
    for graph in graphs.values():
        graph.unlink()
    encoder.tokenizer.save(str(folder / TOKENIZER_FILE))
    student = predictors[precision] = predictor_of(folder / MODEL_FILE, calibration=calibration)
    typed = {"typed": answers_of_student(student, data.typed)}
    drops = typed_drops(student, data.utterances)
    tolerance = tolerance_of(precision, any_cpu)
    return Manifest(
        name=options.out.name,
        size=checkpoint.model.config.size,
        precision=precision,
        architecture=architecture_of(checkpoint.model),
        labels=labels,
        locales=tuple(checkpoint.training["locales"]),
        max_length=encoder.max_length,
        graph=recipe_of(precision, gate.kept if gate else (), session, any_cpu),
        files={file: FileEntry.of(folder / file) for file in (MODEL_FILE, TOKENIZER_FILE)},
        golden=choose_golden(student, data.golden, tolerance, calibration),
        golden_tolerance=tolerance,
        parity={
            **parity,
            "agreement_with_fp32": agreement(data.utterances, answers["fp32"], answers[precision]),
            **({"trimming": trimming} if trimming else {}),
        },
        accuracy={
            "data": data.source,
            "partition": data.partition,
            "slots_annotated": annotated_counts(data.utterances),
            **accuracy(data.utterances, answers),
            **accuracy(data.typed, typed),
            "typed_drops": drops,
        },
        quality_gate=gate.report() if gate else None,
        latency={**measure_latency(predictors), "fused_over_apart": fused_over_apart},
        calibration=calibration,
        training=without_history(checkpoint.training),
    )


def calibrate(predictor: Predictor, data: ExportData, rate: float) -> Calibration | None:
    """Fit temperatures, scope and profiles; None if there is too little text.

    `rate` is the share of requests that the scope may reject.
    """
    log.info("calibrating on %d utterances of %s", len(data.utterances), data.source)
    observed = observe(predictor, data)
    temperatures, slot_confidence, errors = fit_confidences(observed.outcomes)
    scope, measured = fit_scope(predictor.labels, observed, temperatures, rate)
    if not temperatures and scope is None:
        return None
    return Calibration(
        data=data.source,
        partition=data.partition,
        temperatures=temperatures,
        slot_confidence=slot_confidence,
        scope=scope,
        profile=profiles(predictor.labels, observed.requests, temperatures),
        measured={**errors, **measured},
    )


def pass_gate(
    graphs: dict[str, Path],
    predictor_of: Callable[[Path], Predictor],
    data: ExportData,
    fp32_answers: Sequence[PredictedLabels],
    options: Options,
) -> Gate | None:
    """Quantise within `--max-drop`.

    With ``--precision auto`` the int8 graph is deleted, and None returned, if it loses too much or is not faster here.

    Raises:
        ExportError: the precision is int8, and it loses too much.
    """
    fp32, int8, any_cpu = graphs["fp32"], graphs["int8"], options.cpu == "any"
    labels = predictor_of(fp32).labels

    def answers_of(graph: Path) -> list[PredictedLabels]:
        return answers_of_student(predictor_of(graph), data.utterances)

    drops = partial(drops_of, data.utterances, labels, fp32_answers)
    texts = [u.text for u in first_of_each_locale(data.utterances, SENSITIVITY_SENTENCES)]
    order = partial(by_sensitivity, fp32, predictor_of, texts, any_cpu)
    try:
        if options.max_drop is None:
            answers = answers_of(int8)
            gate = Gate(None, drops(answers), answers)
        else:
            gate = quantise_within(options.max_drop, fp32, int8, drops, answers_of, order, any_cpu)
        if options.precision == "auto":
            times = latencies({name: predictor_of(graph) for name, graph in graphs.items()})
            if slower := [tokens for tokens, time in times["int8"].items() if time >= times["fp32"][tokens]]:
                raise ExportError(f"int8 is not faster here at {', '.join(slower)} tokens")
    except ExportError as error:
        if options.precision != "auto":
            raise
        log.info("%s; fp32 is served", error)
        graphs.pop("int8").unlink(missing_ok=True)
        return None
    warn(gate)
    return gate


def architecture_of(model: StudentModel) -> Architecture:
    """The shape of a student, for its manifest."""
    config = model.config
    parameters, non_embedding_parameters = model.count_parameters()
    return Architecture(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention_heads=config.num_attention_heads,
        feed_forward=config.intermediate_size,
        activation=config.activation,
        vocabulary=config.vocab_size,
        parameters=parameters,
        non_embedding_parameters=non_embedding_parameters,
    )


def without_history(training: dict[str, Any]) -> dict[str, Any]:
    """Training provenance without the scores of each epoch, also of the checkpoints that it started from."""
    kept = {name: value for name, value in training.items() if name != "history"}
    return {**kept, "init": without_history(kept["init"])} if kept.get("init") else kept
