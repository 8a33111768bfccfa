"""A tiny student: a real tokenizer and a hand-made graph whose look-up tables recognise a few keywords."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from anyio.from_thread import start_blocking_portal
from onnx import TensorProto, helper, numpy_helper
from prometheus_client.parser import text_string_to_metric_families
from tokenizers import Regex, Tokenizer
from tokenizers.models import Unigram
from tokenizers.normalizers import NFKC, Lowercase, Replace, Strip
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Metaspace, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from uvicorn.server import ServerState

from service.app import create_app
from service.http.connection import Connection
from service.http.middleware import RequestMiddleware
from service.process import worker
from service.settings import Settings
from service.student.golden import golden_answer
from service.student.manifest import (
    MANIFEST_FILE,
    MODEL_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    Manifest,
    SessionOptions,
    sha256_of,
)
from service.student.student import OUTPUT_OF_HEAD, Student, open_session
from service.student.tokenization import TextEncoder

DOMAINS = ("alarm", "music", "weather")
INTENTS = ("alarm_set", "music_play", "weather_query")
TAGS = ("O", "B-date", "I-date", "B-time", "I-time", "B-place_name", "I-place_name")
LABELS = {"domain": DOMAINS, "intent": INTENTS, "slots": TAGS}
HEADS = tuple(LABELS)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
DOMAIN_WORDS = {
    "alarm": ("weck", "wecker", "sveglia", "réveille", "despiértame"),
    "music": ("spiel", "musik", "musica", "joue", "música"),
    "weather": ("wetter", "regnet", "tempo", "météo", "tiempo"),
}
TAG_WORDS = {
    "B-date": ("freitag", "morgen", "domani", "demain", "viernes"),
    "B-time": ("neun", "9", "nove", "neuf", "nueve", "1"),
    "I-time": ("uhr", "heures", "/", "2"),
    "B-place_name": ("berlin", "roma", "paris", "madrid", "größe"),
    "I-place_name": ("mitte",),
}
LOCALES = ("de-DE", "es-ES", "fr-FR", "it-IT")
MAX_LENGTH = 64
GOLDEN = (("weck mich am freitag um neun uhr auf", "de-DE"), ("che tempo fa domani a roma", "it-IT"))
LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßéèìñ0123456789!?.,'’-"

Edit = Callable[..., None]
MakeClient = Callable[..., "Client"]
Ask = Callable[..., dict[str, Any]]


def _vocabulary() -> list[tuple[str, float]]:
    vocabulary = [word for group in (DOMAIN_WORDS, TAG_WORDS) for words in group.values() for word in words]
    tokens = [(token, 0.0) for token in SPECIAL]
    tokens += [("▁" + word, -2.0) for word in vocabulary] + [("▁", -6.0)]
    known = {token for token, _ in tokens}
    return tokens + [(letter, -10.0) for letter in LETTERS if letter not in known]


def build_tokenizer() -> Tokenizer:
    """A tokenizer of the kind that the project trains."""
    tokenizer = Tokenizer(Unigram(_vocabulary(), unk_id=SPECIAL.index("[UNK]"), byte_fallback=False))
    tokenizer.normalizer = Normalizers([NFKC(), Lowercase(), Replace(Regex(r"\s+"), " "), Strip()])
    between = r"(?<![\p{L}\p{N}])[^\p{L}\p{N}\p{M}\s▁]|[^\p{L}\p{N}\p{M}\s▁](?![\p{L}\p{N}])"
    tokenizer.pre_tokenizer = PreTokenizers(
        [Metaspace(replacement="▁", prepend_scheme="always"), Split(Regex(between), "isolated")]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
    return tokenizer


def build_graph(domains: int = len(DOMAINS), heads: tuple[str, ...] = HEADS) -> bytes:
    """A graph that sums each token's row of a table for domain and intent, and takes its tags from another."""
    tokens = [token for token, _ in _vocabulary()]
    domain = np.zeros((len(tokens), domains), np.float32)
    slots = np.zeros((len(tokens), len(TAGS)), np.float32)
    slots[:, 0] = 2
    for column, words in enumerate(DOMAIN_WORDS.values()):
        domain[[tokens.index("▁" + word) for word in words], column] = 4
    for tag, marked in TAG_WORDS.items():
        slots[[tokens.index("▁" + word) for word in marked], TAGS.index(tag)] = 7
    tables = {"domain": domain, "intent": domain[:, : len(INTENTS)] * 0.9, "slot": slots}
    nodes = [helper.make_node("Gather", [name, "input_ids"], [f"{name}_rows"]) for name in tables]
    nodes += [
        helper.make_node("ReduceSum", [f"{head}_rows", "axes"], [f"{head}_logits"], keepdims=0)
        for head in ("domain", "intent")
    ]
    nodes.append(helper.make_node("Identity", ["slot_rows"], ["slot_logits"]))
    constants = [numpy_helper.from_array(table, name) for name, table in tables.items()]
    constants.append(numpy_helper.from_array(np.array([0], np.int64), "axes"))
    shapes = {"domain": [domains], "intent": [len(INTENTS)], "slots": ["tokens", len(TAGS)]}
    outputs = [helper.make_tensor_value_info(OUTPUT_OF_HEAD[head], TensorProto.FLOAT, shapes[head]) for head in heads]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["tokens"])]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def write_student(
    folder: Path,
    name: str = "s",
    locales: tuple[str, ...] = LOCALES,
    heads: tuple[str, ...] = HEADS,
    calibration: dict[str, Any] | None = None,
) -> Path:
    """Write a valid student folder; `calibration` has the fields of a `Calibration` except those about data."""
    folder.mkdir(parents=True)
    build_tokenizer().save(str(folder / TOKENIZER_FILE))
    (folder / MODEL_FILE).write_bytes(build_graph(heads=heads))
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "size": "xs",
        "precision": "fp32",
        "architecture": dict.fromkeys(("layers", "hidden", "attention_heads", "feed_forward", "vocabulary"), 1)
        | {"activation": "none", "parameters": 1000, "non_embedding_parameters": 0},
        "labels": {head: LABELS[head] for head in heads},
        "locales": locales,
        "max_length": MAX_LENGTH,
        "graph": {"exporter": "by hand", "quantisation": "none", "opset": 18},
        "files": {file: _entry(folder / file) for file in (MODEL_FILE, TOKENIZER_FILE)},
        "golden": [{"text": text, "locale": locale, "tokens": []} for text, locale in GOLDEN],
    }
    if calibration is not None:
        manifest["calibration"] = {"data": "by hand", "partition": "dev", "temperatures": {}, **calibration}
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    record_golden(folder)
    return folder


def record_golden(folder: Path, *texts: str) -> None:
    """Record a student's present answers to its golden sentences, or to these in German, as golden."""
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    session = open_session(folder / MODEL_FILE, SessionOptions())
    encoder = TextEncoder.from_file(folder / TOKENIZER_FILE, MAX_LENGTH)
    student = Student(Manifest.model_validate(manifest), encoder, session)
    sentences = [(text, "de-DE") for text in texts] or [(g["text"], g["locale"]) for g in manifest["golden"]]
    manifest["golden"] = [golden_answer(student, *sentence).model_dump() for sentence in sentences]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))


def _entry(file: Path) -> dict[str, Any]:
    return {"sha256": sha256_of(file), "bytes": file.stat().st_size}


@pytest.fixture(autouse=True)
def _without_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("NLU_")]:
        monkeypatch.delenv(variable)


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two students: `s`, and `german`, which knows de-DE only."""
    root = tmp_path_factory.mktemp("students")
    write_student(root / "s")
    write_student(root / "german", name="german", locales=("de-DE",))
    return root


@pytest.fixture
def folder(students: Path, tmp_path: Path) -> Path:
    """A copy of a student folder, to be changed by the test."""
    return shutil.copytree(students / "s", tmp_path / "students" / "s")


@pytest.fixture
def edit() -> Edit:
    """Change the manifest of a student folder: `edit(folder, "labels.domain", [...])`.

    If labels or calibration change, the student's answers become golden, unless the change is invalid.
    """

    def change(folder: Path, path: str, value: Any) -> None:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        *parents, last = path.split(".")
        place = manifest
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
        if path.startswith(("labels", "calibration")):
            with suppress(Exception):
                record_golden(folder)

    return change


@pytest.fixture
def replace_graph() -> Callable[[Path, bytes], None]:
    """Replace the graph of a student folder, and its digest."""

    def replace(folder: Path, graph: bytes) -> None:
        (folder / MODEL_FILE).write_bytes(graph)
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        manifest["files"][MODEL_FILE] = _entry(folder / MODEL_FILE)
        (folder / MANIFEST_FILE).write_text(json.dumps(manifest))

    return replace


@pytest.fixture(scope="session")
def graph_of_other_width() -> bytes:
    """A graph with one domain more than the manifest."""
    return build_graph(domains=len(DOMAINS) + 1)


@pytest.fixture(scope="session")
def student(students: Path) -> Student:
    """The tiny student, loaded."""
    return Student.load(students / "s")


@dataclass
class Clock:
    """A clock that tests set."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """A blocking client of an application that runs in this process, on an event loop in a thread.

    Coroutines run by `call` may send requests with `http`.
    """

    def __init__(self, app: RequestMiddleware) -> None:
        self.app = app
        self._exits = ExitStack()

    def __enter__(self) -> Client:
        """Start the application and wait until its students are loaded."""
        portal = self._portal = self._exits.enter_context(start_blocking_portal())
        lifespan = self.app.app.router.lifespan_context(self.app.app)
        self._exits.enter_context(portal.wrap_async_context_manager(lifespan))
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")
        portal.call(self.app.state.loaded.wait)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the application."""
        self._portal.call(self.http.aclose)
        self._exits.close()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET."""
        return self.send("GET", path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST."""
        return self.send("POST", path, **options)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request. `content` is declared as JSON, unless `headers` say something else."""
        if "content" in options:
            options["headers"] = {"content-type": "application/json", **(options.get("headers") or {})}
        response: httpx.Response = self.call(partial(self.http.request, method, path, **options))
        return response

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a coroutine function on the application's event loop."""
        return self._portal.call(function, *arguments)

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Serve the application on a free port, too."""
        config = worker.Server(self.app, self.app.settings).config

        async def listen() -> asyncio.Server:
            loop = asyncio.get_running_loop()
            return await loop.create_server(lambda: Connection(config, ServerState()), "127.0.0.1", 0)

        async def close() -> None:
            server.close()
            await server.wait_closed()

        server: asyncio.Server = self.call(listen)
        yield server.sockets[0].getsockname()[1]
        self.call(close)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples in ``/metrics`` that have this name and these labels."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = (sample for family in families for sample in family.samples if sample.name == name)
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())


@pytest.fixture
def make_client(students: Path) -> Iterator[MakeClient]:
    """Start an application with some settings."""
    with ExitStack() as stack:

        def make(root: Path = students, **settings: Any) -> Client:
            return stack.enter_context(Client(create_app(Settings(students=root, **settings))))

        yield make


@pytest.fixture(scope="module")
def client(students: Path) -> Iterator[Client]:
    """An application with default settings, shared by the tests of a module."""
    with Client(create_app(Settings(students=students))) as client:
        yield client


@pytest.fixture(scope="module")
def ask(client: Client) -> Ask:
    """Ask `client` about a text and return the answer."""

    def post(text: str, locale: str = "de-DE", **more: Any) -> dict[str, Any]:
        response = client.post("/v1/nlu", json={"text": text, "locale": locale, **more})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    return post
