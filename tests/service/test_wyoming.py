"""The Wyoming protocol, spoken by the library that Home Assistant uses."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from wyoming.asr import Transcript
from wyoming.audio import AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.intent import Entity, Intent, NotRecognized, Recognize
from wyoming.ping import Ping, Pong

from service.wyoming import main
from tests.service.conftest import write_student
from tests.service.server import ROOT

TEXT = "weck mich am freitag um neun uhr auf"
SCOPE = {"method": "max_softmax", "head": "intent", "false_rejection_rate": 0.02, "thresholds": {"de-DE": 0.5}}


class Process:
    """``python -m service.wyoming`` on a socket."""

    def __init__(self, student: Path, socket: Path, *flags: str) -> None:
        self.uri = f"unix://{socket}"
        command = [sys.executable, "-m", "service.wyoming", "--student", str(student), "--uri", self.uri, *flags]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"READY with {student.name} on {self.uri}\n"

    def ask(self, *events: Event) -> list[Event]:
        """Send events on one connection, each after the answer to the last."""

        async def ask() -> list[Any]:
            async with AsyncClient.from_uri(self.uri) as client:
                answers = []
                for event in events:
                    await client.write_event(event)
                    answers.append(await asyncio.wait_for(client.read_event(), 30))
                return answers

        return asyncio.run(ask())

    def send(self, work: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]) -> bytes:
        """Send bytes."""

        async def send() -> bytes:
            reader, writer = await asyncio.open_unix_connection(self.uri.removeprefix("unix://"))
            try:
                return await work(reader, writer)
            finally:
                writer.close()

        return asyncio.run(send())

    def stop(self) -> str:
        """End it by SIGTERM; its standard error."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return errors


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_student(tmp_path_factory.mktemp("wyoming") / "s", calibration={"scope": SCOPE})


@pytest.fixture(scope="module")
def server(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    server = Process(student, tmp_path_factory.mktemp("socket") / "nlu")
    yield server
    errors = server.stop()
    assert "xyz" not in errors
    assert "weck" not in errors


def test_describe(server: Process) -> None:
    (answer,) = server.ask(Describe().event())

    (program,) = Info.from_event(answer).intent
    (model,) = program.models
    assert (program.name, program.installed, model.name) == ("distilled-nlu", True, "s")
    assert model.languages == ["de-DE", "es-ES", "fr-FR", "it-IT"]


@pytest.mark.parametrize("language", ["de-DE", "de", "de_de", "DE-AT"])
def test_a_transcript_is_answered_with_its_intent(server: Process, language: str) -> None:
    context = {"conversation_id": "c1"}

    (answer,) = server.ask(Transcript(TEXT, language=language, context=context).event())

    expected = Intent("alarm_set", [Entity("date", "freitag"), Entity("time", "neun uhr")], context=context)
    assert Intent.is_type(answer.type)
    assert Intent.from_event(answer) == expected


def test_recognize_takes_the_language_of_its_context(server: Process) -> None:
    german, italian = server.ask(
        *(Recognize(text, {"language": language}).event() for text, language in (("wetter", "de"), ("musica", "it")))
    )

    assert (Intent.from_event(german).name, Intent.from_event(italian).name) == ("weather_query", "music_play")


def test_out_of_scope_text_is_not_recognized(server: Process) -> None:
    answers = server.ask(*(Transcript(text, language="de").event() for text in ("xyz", " ", "a\0b", "wetter " * 3000)))

    assert [NotRecognized.from_event(answer).text for answer in answers] == [None] * 4
    assert all(NotRecognized.is_type(answer.type) for answer in answers)


def test_unknown_or_missing_language_is_not_recognized_and_says_why(server: Process) -> None:
    unknown, missing = server.ask(Transcript(TEXT, language="sv").event(), Recognize(TEXT).event())

    assert NotRecognized.from_event(unknown).text == (
        "the student does not know the language; known: de-DE, es-ES, fr-FR, it-IT"
    )
    assert (NotRecognized.from_event(missing).text or "").startswith("the text came without a language; known: ")


def test_other_events_need_no_answer(server: Process) -> None:
    async def send() -> Event | None:
        async with AsyncClient.from_uri(server.uri) as client:
            await client.write_event(AudioStop().event())
            await client.write_event(Ping("1").event())
            return await asyncio.wait_for(client.read_event(), 30)

    answer = asyncio.run(send())
    assert answer is not None
    assert Pong.from_event(answer).text == "1"


@pytest.mark.parametrize("data", [{}, {"text": 3}, {"text": "x", "language": 1}, {"text": "x", "context": "c"}])
def test_invalid_events_are_named(server: Process, data: Any) -> None:
    (answer,) = server.ask(Event("recognize", data))

    assert Error.from_event(answer).code == "invalid-event"


@pytest.mark.parametrize(
    "sent",
    [
        b"xyz weck\n",
        b"[]\n",
        b'{"type"\n',
        b'{"no": "xyz"}\n',
        b'{"type": "recognize", "data": "xyz"}\n',
        b'{"type": "recognize", "data_length": 99}\nxyz',
        b'{"type": "recognize", "data_length": "xyz"}\n',
        b'{"type": "transcript", "data": {"text": "xyz \\ud800", "language": "de"}}\n',
        b"x" * 100_000 + b"\n",
    ],
)
def test_broken_connections_do_not_end_the_server(server: Process, sent: bytes) -> None:
    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(sent)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), 30)

    server.send(work)

    (answer,) = server.ask(Ping("1").event())
    assert Pong.is_type(answer.type)


def test_locale_is_that_of_texts_without_a_language(student: Path, tmp_path: Path) -> None:
    server = Process(student, tmp_path / "nlu", "--locale", "de-DE")

    (answer,) = server.ask(Recognize(TEXT).event())
    server.stop()

    assert Intent.from_event(answer).name == "alarm_set"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--student", "missing"], 2, "missing: no such folder"),
        (["--locale", "xx-XX"], 2, "--locale 'xx-XX' is unknown to the student; known: de-DE"),
        (["--uri", "http://x"], 2, "Only 'stdio://', 'unix://', or 'tcp://' are supported"),
        (["--uri", "stdio://"], 2, "--uri 'stdio://' is not allowed"),
        (["--uri", "tcp://localhost"], 2, "A port must be specified"),
        (["--uri", "unix:///no/such/folder/nlu"], 1, "cannot listen on unix:///no/such/folder/nlu: "),
    ],
)
def test_a_command_line_that_cannot_be_used(
    student: Path, capsys: pytest.CaptureFixture[str], flags: list[str], code: int, message: str
) -> None:
    assert main(["--student", str(student), *flags]) == code

    assert f"error: {message}" in capsys.readouterr().err


def test_a_student_without_intents_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    student = write_student(tmp_path / "slots", name="slots", heads=("slots",))

    assert main(["--student", str(student)]) == 2
    assert capsys.readouterr().err == "error: student slots has no intent head\n"
