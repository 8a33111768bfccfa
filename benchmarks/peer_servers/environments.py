"""One virtual environment for each peer: frameworks' requirements exclude each other."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.peer_servers.catalogue import Peer
from benchmarks.peer_servers.processes import last_words
from loadtest.load.command import LoadTestError

ENVIRONMENTS = Path(".peers")
INSTALL_SECONDS = 3600.0
PROBE_SECONDS = 60.0
PROBE = """
import json, platform, sys
from importlib.metadata import PackageNotFoundError, version
found = {"python": platform.python_version()}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


class InstallError(LoadTestError):
    """A peer can't be installed; the message is one sentence."""


def add_environments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where environments are, and how missing ones are made."""
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR", help="folder of the "
                        "frameworks' environments (default: %(default)s)")  # fmt: skip
    parser.add_argument("--install", action="store_true", help="make environments that are missing, from PyPI; some "
                        "gigabytes")  # fmt: skip
    parser.add_argument("--python", type=Path, default=Path(sys.executable), metavar="PATH", help="interpreter of the "
                        "environments that --install makes (default: the one that runs)")  # fmt: skip


def ready(peer: Peer, arguments: argparse.Namespace, flags: str) -> tuple[Path, dict[str, str]]:
    """As `find`; installs the peer where it is missing and the arguments say so.

    Raises:
        InstallError: it is not there; says why, or which `flags` install it.
    """
    if problem := missing_program(peer):
        raise InstallError(problem)
    place = find(peer, arguments.environments)
    if place is None and arguments.install:
        print(f"{peer.title}: installing {', '.join(peer.requirements)}", file=sys.stderr, flush=True)
        try:
            install(peer, arguments.environments, arguments.python)
        except InstallError as error:
            raise InstallError(f"{peer.title} can't be installed: {error}") from None
        place = find(peer, arguments.environments)
    if place is None:
        folder = arguments.environments / peer.name
        raise InstallError(f"{peer.title} is not installed; {flags} makes an environment for it in {folder}")
    return place


def python_of(environments: Path, name: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not; it is run from other folders."""
    return environments.absolute() / name / "bin" / "python"


def find(peer: Peer, environments: Path) -> tuple[Path, dict[str, str]] | None:
    """An interpreter that has the peer, and the versions there; its own environment's, or else this one."""
    for python in (python_of(environments, peer.name), Path(sys.executable)):
        if python.exists() and peer.distribution in (found := versions_at(python, (peer.distribution, *peer.base))):
            return python, found
    return None


def missing_program(peer: Peer) -> str | None:
    """What the peer needs and pip can't bring, in a sentence."""
    for program, provider in peer.programs.items():
        if shutil.which(program) is None:
            return f"{peer.title} needs {program} ({provider})"
    return None


def install(peer: Peer, environments: Path, base: Path) -> None:
    """Make the peer's environment with the interpreter `base`.

    Raises:
        InstallError: it can't be made; says what pip said last.
    """
    folder = environments / peer.name
    environments.mkdir(parents=True, exist_ok=True)
    _run([str(base), "-m", "venv", "--clear", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    _run([*pip, str(python_of(environments, peer.name)), "install", *requirements_of(peer)])


def requirements_of(peer: Peer) -> list[str]:
    """What the peer needs, and what the student needs, in the versions that are installed here: the same runtime."""
    own = {requirement.partition("==")[0] for requirement in peer.requirements}
    return [*(f"{name}=={version(name)}" for name in peer.base if name not in own), *peer.requirements]


def versions_at(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of those packages that an interpreter has; none if it doesn't run."""
    command = [str(python), "-c", PROBE, *names]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=True, text=True)
        found: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return found


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS, check=False, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise InstallError(last_words([*done.stdout.splitlines(), *done.stderr.splitlines()]))
