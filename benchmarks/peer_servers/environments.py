"""One virtual environment for each peer, since the frameworks' requirements conflict."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.peer_servers.catalogue import Peer
from benchmarks.peer_servers.processes import error_line
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
    """Add the flags for finding and creating environments."""
    about = "folder of the frameworks' environments (default: %(default)s)"
    parser.add_argument("--environments", type=Path, default=ENVIRONMENTS, metavar="DIR", help=about)
    about = "create missing environments from PyPI, several gigabytes"
    parser.add_argument("--install", action="store_true", help=about)
    about = "interpreter of the environments that --install creates (default: the running one)"
    parser.add_argument("--python", type=Path, default=Path(sys.executable), metavar="PATH", help=about)


def ready(peer: Peer, arguments: argparse.Namespace, flags: str) -> tuple[Path, dict[str, str]]:
    """As `find`; installs a missing peer if the arguments ask for it.

    Raises:
        InstallError: the peer is not installed; names the reason, or the `flags` that install it.
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
        raise InstallError(f"{peer.title} is not installed; {flags} creates an environment for it in {folder}")
    return place


def python_of(environments: Path, name: str) -> Path:
    """The absolute path of the interpreter of a peer's environment, which may not exist."""
    return environments.absolute() / name / "bin" / "python"


def find(peer: Peer, environments: Path) -> tuple[Path, dict[str, str]] | None:
    """An interpreter with the peer and its versions: that of the peer's environment, or else the running one."""
    for python in (python_of(environments, peer.name), Path(sys.executable)):
        if python.exists() and peer.distribution in (versions := versions_at(python, (peer.distribution, *peer.base))):
            return python, versions
    return None


def missing_program(peer: Peer) -> str | None:
    """A required program that is missing and that pip can't install, as one sentence; or None."""
    for program, provider in peer.programs.items():
        if shutil.which(program) is None:
            return f"{peer.title} needs {program} ({provider})"
    return None


def install(peer: Peer, environments: Path, base: Path) -> None:
    """Create the peer's environment with the interpreter `base`.

    Raises:
        InstallError: this failed; contains pip's error.
    """
    folder = environments / peer.name
    environments.mkdir(parents=True, exist_ok=True)
    _run([str(base), "-m", "venv", "--clear", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python"]
    _run([*pip, str(python_of(environments, peer.name)), "install", *requirements_of(peer)])


def requirements_of(peer: Peer) -> list[str]:
    """The requirements of the peer and of the student; the latter in the versions installed here."""
    own = {requirement.partition("==")[0] for requirement in peer.requirements}
    return [*(f"{name}=={version(name)}" for name in peer.base if name not in own), *peer.requirements]


def versions_at(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Versions of Python and of the named packages of an interpreter; empty if it doesn't run."""
    command = [str(python), "-c", PROBE, *names]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=True, text=True)
        versions: dict[str, str] = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return versions


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS, check=False, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise InstallError(f"{command[0]}: {error}") from None
    if done.returncode:
        raise InstallError(error_line([*done.stdout.splitlines(), *done.stderr.splitlines()]))
