"""Answer intents by the Wyoming protocol, for Home Assistant's voice pipeline; needs the extra ``[wyoming]``.

python -m service.wyoming --student s --uri tcp://0.0.0.0:10500

The events `transcript` and `recognize` are answered with `intent` or, if the text is out of scope, `not-recognized`;
`describe` with `info`. Home Assistant sends transcripts with their language, and handles the intents by their names.
Wyoming has no authentication: the address should be reachable in a trusted network only.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from service.errors import ENDINGS, log_fault
from service.extras import require
from service.student.manifest import StudentError
from service.student.shipped import student_folder
from service.student.student import Student

if TYPE_CHECKING:
    from wyoming.event import Event
    from wyoming.info import Info

MAX_TEXT_CHARS = 20_000
PROJECT = "distilled-nlu"

log = logging.getLogger("service")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m service.wyoming",
        description="Answer intents by the Wyoming protocol, for Home Assistant's voice pipeline.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--student",
        default="s",
        metavar="DIR",
        help="student folder, name of a shipped student, s or xs, or hub:OWNER/NAME@REVISION (default: %(default)s)",
    )
    parser.add_argument(
        "--uri",
        default="tcp://127.0.0.1:10500",
        help="address to listen on, tcp://HOST:PORT or unix://PATH (default: %(default)s)",
    )
    parser.add_argument(
        "--locale", help="locale of texts that come without a language (default: the student's, if it knows only one)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Answer until SIGTERM or SIGINT. Returns the exit code: 0, 1 if the address can't be used, or 2."""
    args = parser().parse_args(argv)
    require("wyoming")
    from wyoming.server import AsyncServer

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        student = Student.load(student_folder(args.student))
        answers = Answers(student, args.locale)
        server = AsyncServer.from_uri(args.uri)
    except (StudentError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not args.uri.startswith(("tcp://", "unix://")):  # standard output is for people here
        print(f"error: --uri {args.uri!r} is not allowed; allowed: tcp://HOST:PORT, unix://PATH", file=sys.stderr)
        return 2
    try:
        asyncio.run(_serve(server, answers, f"READY with {student.manifest.name} on {args.uri}"))
    except OSError as error:
        print(f"error: cannot listen on {args.uri}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


async def _serve(server: Any, answers: Answers, ready: str) -> None:
    from wyoming.server import AsyncEventHandler

    class Handler(AsyncEventHandler):
        """One connection."""

        async def handle_event(self, event: Event) -> bool:
            if (answer := answers.to(event)) is not None:
                await self.write_event(answer)
            return True

        async def run(self) -> None:
            try:
                await super().run()
            except ENDINGS:
                raise
            except BaseException as error:  # noqa: BLE001 - of one connection; its message may hold a text
                log_fault(error, "(wyoming)")

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await server.start(Handler)
    print(ready, flush=True)
    await stopped.wait()
    await server.stop()


class Answers:
    """Answers events with a student.

    Args:
        student: the student; it needs intents.
        locale: of texts that come without a language; None allows none, unless the student knows only one locale.

    Raises:
        ValueError: the student has no intents, or does not know the locale.
    """

    def __init__(self, student: Student, locale: str | None = None) -> None:
        manifest = student.manifest
        if "intent" not in manifest.labels.heads:
            raise ValueError(f"student {manifest.name} has no intent head")
        if locale is not None and locale not in manifest.locales:
            raise ValueError(f"--locale {locale!r} is unknown to the student; known: {', '.join(manifest.locales)}")
        self._student = student
        self._default = manifest.locales[0] if locale is None and len(manifest.locales) == 1 else locale

    def to(self, event: Event) -> Event | None:
        """The answer to an event; None if it needs none, as those of audio."""
        from wyoming.asr import Transcript
        from wyoming.error import Error
        from wyoming.info import Describe
        from wyoming.intent import Recognize
        from wyoming.ping import Ping, Pong

        data = event.data if isinstance(event.data, dict) else {}
        if Describe.is_type(event.type):
            return self.info().event()
        if Ping.is_type(event.type):
            return Pong(text=data.get("text")).event()
        if not (Transcript.is_type(event.type) or Recognize.is_type(event.type)):
            return None
        text, language, context = (data.get(name) for name in ("text", "language", "context"))
        if not isinstance(text, str) or not isinstance(language, str | None) or not isinstance(context, dict | None):
            return Error("text and language should be texts, and context an object", "invalid-event").event()
        if language is None and context is not None and isinstance(context.get("language"), str):
            language = context["language"]
        return self._recognise(text, language, context)

    def info(self) -> Info:
        """The student as an intent service."""
        from wyoming.info import Attribution, Info, IntentModel, IntentProgram

        manifest = self._student.manifest
        shared: dict[str, Any] = {"attribution": Attribution(PROJECT, ""), "installed": True}
        model = IntentModel(
            name=manifest.name,
            description=f"size {manifest.size}, {manifest.precision}",
            version=manifest.digest,
            languages=list(manifest.locales),
            **shared,
        )
        about = "domain, intent and slots by a distilled student"
        return Info(intent=[IntentProgram(name=PROJECT, description=about, version=None, models=[model], **shared)])

    def _recognise(self, text: str, language: str | None, context: dict[str, Any] | None) -> Event:
        from wyoming.intent import Entity, Intent, NotRecognized

        locale = self._locale_of(language)
        if locale is None:
            known = ", ".join(self._student.manifest.locales)
            problem = (
                "the text came without a language" if language is None else "the student does not know the language"
            )
            log.warning("not recognized: %s; known: %s (--locale)", problem, known)
            return NotRecognized(text=f"{problem}; known: {known}", context=context).event()
        if not _is_readable(text):
            return NotRecognized(context=context).event()
        answer = self._student.predict(text, locale=locale)
        if answer.in_scope is False or not answer.intent:
            return NotRecognized(context=context).event()
        entities = [Entity(slot.name, slot.value) for slot in answer.slots or ()]
        return Intent(answer.intent[0].name, entities, context=context).event()

    def _locale_of(self, language: str | None) -> str | None:
        """The student's locale for a language such as "de", "de-DE" or "de_de"; None if it has none."""
        if language is None:
            return self._default
        wanted = language.replace("_", "-").lower()
        locales = self._student.manifest.locales
        exact = next((locale for locale in locales if locale.lower() == wanted), None)
        if exact is not None:
            return exact
        same = [locale for locale in locales if locale.split("-")[0].lower() == wanted.split("-")[0]]
        return self._default if self._default in same else next(iter(same), None)


def _is_readable(text: str) -> bool:
    """Whether a tokenizer can read a text: not blank, not too long, no NUL, no lone surrogate."""
    surrogate = any("\ud800" <= character <= "\udfff" for character in text)
    return bool(text.strip()) and len(text) <= MAX_TEXT_CHARS and "\0" not in text and not surrogate


if __name__ == "__main__":
    sys.exit(main())
