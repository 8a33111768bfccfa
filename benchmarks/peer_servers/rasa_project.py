"""A Rasa project: training, serving and querying it, for ``python -m benchmarks.rasa``.

All settings are Rasa's defaults, including the pipeline.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.peer_servers.processes import ProcessTree, running
from benchmarks.peer_servers.wire import WireFormat
from loadtest.load.client import LoadError, fetch
from loadtest.load.target import TargetError, free_port
from loadtest.load.texts import Text
from training.data.datasets import row_of
from training.data.files import write_atomically
from training.data.utterances import Utterance, checksum_of
from training.evaluation.scoring import PredictedLabels

EPOCHS = 100  # Rasa's default
FALLBACK_INTENT = "nlu_fallback"  # Rasa's intent at low confidence; the most likely real intent follows it
REPLY_SECONDS = 60.0
CONFIGURATION, DATA, UTTERANCES, MADE, MODEL = "config.yml", "nlu.json", "utterances.jsonl", "made.json", "nlu"
QUIET = {"RASA_TELEMETRY_ENABLED": "false", "TF_CPP_MIN_LOG_LEVEL": "2", "SQLALCHEMY_SILENCE_UBER_WARNING": "1"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Project:
    """A folder with Rasa's training data and model.

    Attributes:
        folder: folder of the project.
        python: interpreter with Rasa.
        locale: locale of the utterances.
        epochs: training epochs.
    """

    folder: Path
    python: Path
    locale: str
    epochs: int = EPOCHS

    @property
    def model(self) -> Path:
        """Rasa's model, a tarball."""
        return self.folder / "models" / f"{MODEL}.tar.gz"

    def train(self, utterances: Sequence[Utterance], others: Sequence[Utterance], rasa: str) -> Json:
        """Train unless it was done before. Returns {"seconds": training time, ...}.

        The utterances, and the `others` that Rasa does not use, are also written in this project's format.

        Raises:
            TargetError: the folder contains a model of other settings, or training failed.
        """
        asked = {"rasa": rasa, "locale": self.locale, "epochs": self.epochs, "train": checksum_of(utterances)}
        record = self.folder / MADE
        if self.model.is_file() and record.is_file():
            before: Json = json.loads(record.read_text())
            if changed := [name for name, value in asked.items() if before.get(name) != value]:
                names = ", ".join(changed)
                raise TargetError(f"{self.folder}: contains a model with other {names}; choose another --project")
            return before
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / DATA).write_bytes(orjson.dumps(training_data(utterances), option=orjson.OPT_INDENT_2))
        rows = (orjson.dumps(row_of(one)) + b"\n" for one in (*utterances, *others))
        (self.folder / UTTERANCES).write_bytes(b"".join(rows))
        configuration = configuration_of(self.locale, self.epochs)  # JSON is YAML
        (self.folder / CONFIGURATION).write_bytes(orjson.dumps(configuration, option=orjson.OPT_INDENT_2))
        command = [str(self.python), "-m", "rasa", "train", "nlu", "--nlu", DATA, "--config", CONFIGURATION]
        began = time.perf_counter()
        done = subprocess.run(
            [*command, "--out", "models", "--fixed-model-name", MODEL],
            cwd=self.folder,
            env={**os.environ, **QUIET},
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode or not self.model.is_file():
            raise TargetError(f"Rasa's training failed with exit code {done.returncode}; see its output above")
        result = {**asked, "seconds": round(time.perf_counter() - began, 1)}
        write_atomically(record, (json.dumps(result, indent=1) + "\n").encode())
        return result

    @contextmanager
    def serving(self, cores: Collection[int] | None, start_timeout: float) -> Iterator[tuple[str, ProcessTree, float]]:
        """Run Rasa's server; yields its URL, its processes, and its start time in seconds.

        Raises:
            TargetError: it did not start.
        """
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(self.python), "-m", "rasa", "run", "--enable-api", "--model", str(self.model.resolve())]
        began = time.perf_counter()
        with running(
            "Rasa", [*command, "--interface", "127.0.0.1", "--port", str(port)], cores, self.folder, QUIET
        ) as server:
            server.wait_until(lambda: _missing(url, self.locale), start_timeout)
            yield url, server, time.perf_counter() - began


def training_data(utterances: Sequence[Utterance]) -> Json:
    """Utterances in Rasa's JSON format, in which texts need no escapes."""
    examples = [
        {
            "text": one.text,
            "intent": one.intent,
            "entities": [{"start": s.start, "end": s.end, "value": one.value(s), "entity": s.name} for s in one.slots],
        }
        for one in utterances
    ]
    return {"rasa_nlu_data": {"common_examples": examples}}


def configuration_of(locale: str, epochs: int) -> Json:
    """Rasa's default pipeline for a language."""
    return {
        "recipe": "default.v1",
        "assistant_id": "compared",
        "language": locale.split("-")[0],
        "pipeline": [
            {"name": "WhitespaceTokenizer"},
            {"name": "RegexFeaturizer"},
            {"name": "LexicalSyntacticFeaturizer"},
            {"name": "CountVectorsFeaturizer"},
            {"name": "CountVectorsFeaturizer", "analyzer": "char_wb", "min_ngram": 1, "max_ngram": 4},
            {"name": "DIETClassifier", "epochs": epochs, "constrain_similarities": True},
            {"name": "EntitySynonymMapper"},
            {"name": "ResponseSelector", "epochs": epochs, "constrain_similarities": True},
            {"name": "FallbackClassifier", "threshold": 0.3, "ambiguity_threshold": 0.1},
        ],
    }


def _answer(reply: Json) -> Json:
    """A reply in the service's format, without domain; at a fallback with the most likely real intent."""
    ranked = [reply["intent"], *reply.get("intent_ranking", [])]
    intent = next((one for one in ranked if one["name"] != FALLBACK_INTENT), None)
    slots = [{"name": one["entity"], "start": one["start"], "end": one["end"]} for one in reply["entities"]]
    return {"domain": None, "intent": intent, "slots": sorted(slots, key=lambda slot: slot["start"])}


WIRE = WireFormat("/model/parse", lambda text: orjson.dumps({"text": text.text}), _answer)


def answers_of(url: str, texts: Iterable[Text]) -> Iterator[PredictedLabels]:
    """Send each text; yields the answers in the same order. Raises LoadError."""
    for text in texts:
        reply = fetch(url + WIRE.path, REPLY_SECONDS, WIRE.body(text))
        yield WIRE.read(reply.status, reply.content)


def _missing(url: str, locale: str) -> str | None:
    """Why the server is not ready, or None; without its model it answers, too, but names no intent."""
    try:
        answer = next(answers_of(url, [Text("x", locale)]))
    except LoadError as error:
        return str(error)
    return None if answer.intent else "no model is loaded"
