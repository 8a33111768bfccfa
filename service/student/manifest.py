"""The student folder: the only contract between training, export and service.

A student folder holds::

    <name>/model.onnx       the graph that is served
          /tokenizer.json   a `tokenizers` file with its normaliser
          /manifest.json    this module's `Manifest`
          /MODEL_CARD.md    for people

The graph may have its weights in further files (external data), if the manifest has their digests.

`model.onnx` takes ``input_ids`` (int64, ``[tokens]``) and returns, for the heads that it has, ``domain_logits``
``[domains]``, ``intent_logits`` ``[intents]`` and ``slot_logits`` ``[tokens, tags]`` (float32).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.student.external_data import external_files
from service.student.files import open_regular_file

SCHEMA_VERSION: Final = 2
GOLDEN_TOLERANCE: Final = 0.15  # log odds; see `golden`
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_FILE = "manifest.json"
CARD_FILE = "MODEL_CARD.md"
OUTSIDE = "O"
PROFILE_BINS = 20
MAX_MANIFEST_BYTES = 1 << 22  # one with 52 locales has about half a megabyte; requests wait while it is parsed
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

Head = Literal["domain", "intent", "slots"]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Confidence = Annotated[float, Field(ge=0, le=1)]


class StudentError(Exception):
    """A student folder can't be served; the message names the folder and the reason."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Labels(_Frozen):
    """Label names in the order of the logits; empty for a head that the student does not have.

    `slots` are BIO tags ("O", "B-date", "I-date", ...), with "O" first.
    """

    domain: tuple[str, ...] = ()
    intent: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        for head in ("domain", "intent", "slots"):
            names = getattr(self, head)
            if len(set(names)) != len(names):
                raise ValueError(f"labels.{head} contains a name twice")
        if self.slots and self.slots[0] != OUTSIDE:
            raise ValueError(f"labels.slots must begin with {OUTSIDE!r}")
        for tag in self.slots[1:]:
            if tag[:2] not in ("B-", "I-"):
                raise ValueError(f"labels.slots: {tag!r} is not a BIO tag; allowed: 'O', 'B-NAME', 'I-NAME'")
        return self

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that the student has, in the order domain, intent, slots."""
        return tuple(head for head in ("domain", "intent", "slots") if getattr(self, head))


class Architecture(_Frozen):
    """Shape of the encoder. `parameters` counts all weights, `non_embedding_parameters` excludes look-up tables."""

    layers: int
    hidden: int
    attention_heads: int
    feed_forward: int
    activation: str
    vocabulary: int
    parameters: int
    non_embedding_parameters: int


class SessionOptions(_Frozen):
    """Session options of onnxruntime with which the graph was measured and checked at export."""

    intra_op_num_threads: int = 1
    disabled_optimizers: tuple[str, ...] = ()


class GraphRecipe(_Frozen):
    """How the graph was made, for people and for a later re-export."""

    exporter: str
    quantisation: str
    opset: int
    session: SessionOptions = SessionOptions()


class FileEntry(_Frozen):
    """Digest and size of one file of the folder."""

    sha256: Digest
    bytes: int

    @classmethod
    def of(cls, file: Path) -> Self:
        """Digest and size of a file on disk."""
        return cls(sha256=sha256_of(file), bytes=file.stat().st_size)


class GoldenSlot(_Frozen):
    """One expected slot; `text[start:end] == value` in code points."""

    name: str
    value: str
    start: int
    end: int
    confidence: Confidence


class Golden(_Frozen):
    """A sentence and the student's answer on the exporting machine; checked when the student is loaded.

    `tokens` are the token ids that the graph read.
    """

    text: str
    locale: str
    tokens: tuple[int, ...]
    domain: str | None = None
    domain_confidence: Confidence | None = None
    intent: str | None = None
    intent_confidence: Confidence | None = None
    slots: tuple[GoldenSlot, ...] = ()
    distance: Annotated[float | None, Field(exclude=True)] = None  # in folders of earlier exports; nothing reads it

    @model_validator(mode="after")
    def _check_confidences(self) -> Self:
        for head in ("domain", "intent"):
            if (getattr(self, head) is None) != (getattr(self, f"{head}_confidence") is None):
                raise ValueError(f"{head} and {head}_confidence: give both or neither")
        return self


class Scope(_Frozen):
    """How out-of-scope text is detected: its score lies below the threshold of its locale.

    The score by method: ``max_softmax`` is the confidence of the best label (Hendrycks and Gimpel 2017), ``energy`` the
    logarithm of the sum of the exponentials of the logits (Liu et al. 2020), both of `head` after temperature scaling.
    """

    method: Literal["max_softmax", "energy"]
    head: Literal["domain", "intent"]
    false_rejection_rate: Annotated[float, Field(gt=0, lt=1, description="share of requests below the threshold")]
    thresholds: Annotated[dict[str, float], Field(description="by locale")]


class Profile(_Frozen):
    """The student's predictions on the labelled texts of a locale: the reference for drift.

    `domains` are shares of the texts by predicted domain, `confidence` the shares of `PROFILE_BINS` equal bins of the
    confidence of the best intent (of the best domain, if the student has no intents).
    """

    texts: Annotated[int, Field(ge=1)]
    domains: dict[str, float]
    confidence: Annotated[tuple[float, ...], Field(min_length=PROFILE_BINS, max_length=PROFILE_BINS)]


class Calibration(_Frozen):
    """Temperature scaling and scope detection, fitted at export on labelled text outside the training data.

    A confidence is the softmax of logits divided by a temperature (Guo et al. 2017), one for each head and locale.
    `slot_confidence` is how the confidences of a slot's words are combined. `measured` is informative: calibration
    errors before and after fitting, and how well each method of `Scope` separates requests from out-of-scope text.
    """

    data: str
    partition: str
    temperatures: dict[Head, dict[str, Annotated[float, Field(ge=0.01, le=100)]]]
    slot_confidence: Literal["minimum", "product"] = "minimum"
    scope: Scope | None = None
    profile: dict[str, Profile] = {}
    measured: dict[str, Any] = {}


class Drop(_Frozen):
    """How much a metric lost, in points of percent, with the limits of its 95 % interval."""

    drop: float
    low: float
    high: float


class QualityGate(_Frozen):
    """The result of the export's quality gate: the loss of the served graph against the fp32 graph.

    `max_drop` is the allowed loss in points of percent, None if any is allowed; `kept_fp32` names the nodes that are
    not quantised; `drops` are by metric and locale.
    """

    max_drop: Annotated[float, Field(ge=0)] | None
    passed: bool
    kept_fp32: tuple[str, ...] = ()
    drops: dict[str, dict[str, Drop]] = {}


class Manifest(_Frozen):
    """The description of a student. The export writes it; `read_manifest` checks it against the folder."""

    schema_version: Literal[2] = SCHEMA_VERSION
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    size: str
    precision: Literal["fp32", "int8"]
    architecture: Architecture
    labels: Labels
    locales: Annotated[tuple[str, ...], Field(min_length=1)]
    max_length: Annotated[int, Field(ge=2)]
    graph: GraphRecipe
    files: dict[str, FileEntry]
    golden: Annotated[tuple[Golden, ...], Field(min_length=1)]
    golden_tolerance: Annotated[float, Field(gt=0, le=1, description="of confidences, in log odds")] = GOLDEN_TOLERANCE
    parity: dict[str, Any] = {}
    accuracy: dict[str, Any] = {}
    latency: dict[str, Any] = {}
    calibration: Calibration | None = None
    quality_gate: QualityGate | None = None
    training: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_heads_and_files(self) -> Self:
        if not self.labels.heads:
            raise ValueError("a student needs at least one head: domain, intent or slots")
        for required in (MODEL_FILE, TOKENIZER_FILE):
            if required not in self.files:
                raise ValueError(f"files has no entry for {required}")
        for name in self.files:
            if Path(name).name != name:
                raise ValueError(f"files: {name!r} is not a plain file name")
        return self

    @model_validator(mode="after")
    def _check_calibration(self) -> Self:
        if self.calibration is None:
            return self
        scope = self.calibration.scope
        tables: list[tuple[str, Iterable[str], Iterable[str]]] = [
            ("temperatures", self.calibration.temperatures, self.labels.heads),
            ("profile", self.calibration.profile, self.locales),
            *((f"temperatures.{head}", found, self.locales) for head, found in self.calibration.temperatures.items()),
        ]
        if scope is not None:
            tables += [("scope.head", [scope.head], self.labels.heads), ("scope", scope.thresholds, self.locales)]
        for name, found, known in tables:
            if unknown := set(found) - set(known):
                raise ValueError(f"calibration.{name}: {', '.join(sorted(unknown))} is not among {', '.join(known)}")
        return self

    @property
    def digest(self) -> str:
        """Short identifier of the graph: the first 12 hex digits of its sha256."""
        return self.files[MODEL_FILE].sha256[:12]


def sha256_of(path: Path) -> str:
    """Hex sha256 of a regular file, read in chunks."""
    with open_regular_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(folder: Path) -> dict[str, Any]:
    """The content of a student folder's manifest, of any version.

    Raises:
        StudentError: the folder or the file is missing, or the file is not a JSON object, or too large.
    """
    try:
        with open_regular_file(folder / MANIFEST_FILE) as stream:
            raw = stream.read(MAX_MANIFEST_BYTES + 1)
        if len(raw) > MAX_MANIFEST_BYTES:
            raise StudentError(f"{folder}: {MANIFEST_FILE} is larger than {MAX_MANIFEST_BYTES} bytes")
        content = json.loads(raw)
    except OSError as error:
        raise StudentError(f"{folder}: not a student folder: cannot read {MANIFEST_FILE} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise StudentError(f"{folder}: {MANIFEST_FILE} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise StudentError(f"{folder}: {MANIFEST_FILE} is not a JSON object")
    return content


def validated(folder: Path, content: Mapping[str, Any]) -> Manifest:
    """The manifest with the content of a JSON object.

    Raises:
        StudentError: it has another schema version, or a field is missing, unknown or invalid.
    """
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        older = isinstance(version, int) and 0 < version < SCHEMA_VERSION
        remedy = f"run: distilled-nlu migrate {folder}" if older else "was it written by a newer release?"
        raise StudentError(
            f"{folder}: {MANIFEST_FILE} has schema_version {version!r}, this release reads {SCHEMA_VERSION}; {remedy}"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(root)"
        raise StudentError(
            f"{folder}: {MANIFEST_FILE} does not fit schema version {SCHEMA_VERSION}: {where}: {first['msg']}"
        ) from error


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a student folder, and check it and the digest of each file in it.

    Raises:
        StudentError: the folder or a file is missing, a field is invalid, a digest does not match, or the graph reads
            a file without a digest.
    """
    manifest = validated(folder, read_json(folder))
    check_files(folder, manifest.files)
    return manifest


def check_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Check the digests of a student's files, and that they include each file that the graph reads.

    Raises:
        StudentError: a file is missing, can't be read or is another one.
    """
    for name, entry in files.items():
        try:
            found = sha256_of(folder / name)
        except FileNotFoundError:
            raise StudentError(f"{folder}: {name} is missing") from None
        except OSError as error:
            raise StudentError(f"{folder}: {name} cannot be read: {error.strerror}") from error
        if found != entry.sha256:
            wrong = "is not this student's tokenizer: it " if name == TOKENIZER_FILE else ""
            raise StudentError(
                f"{folder}: {name} {wrong}has sha256 {found[:12]}..., the manifest says {entry.sha256[:12]}..."
            )
    try:
        unknown = [name for name in external_files(folder / MODEL_FILE) if name not in files]
    except (OSError, ValueError) as error:
        raise StudentError(f"{folder}: cannot open {MODEL_FILE}: {error}") from error
    if unknown:
        raise StudentError(f"{folder}: {MODEL_FILE} reads {unknown[0]!r}, for which the manifest has no digest")


def unknown_files(folder: Path, manifest: Manifest) -> list[str]:
    """The files of a student folder that nothing reads, sorted; hidden ones are left out."""
    known = {MANIFEST_FILE, CARD_FILE, *manifest.files}
    return sorted(file.name for file in folder.iterdir() if file.name not in known and file.name[0] != ".")
