"""Extras of the installation: a missing one is reported in one sentence. Imports only the standard library."""

from __future__ import annotations

import sys
from importlib.util import find_spec

PACKAGES = ("distilled_nlu", "service", "training", "export", "loadtest", "benchmarks")

# For each extra, the packages that its commands import.
EXTRAS = {
    "check": ("sklearn", "scipy", "py3langid", "matplotlib", "tqdm"),
    "training": ("torch", "transformers", "accelerate", "tqdm", "scipy", "matplotlib"),
    "export": ("onnx", "optimum", "torch", "transformers", "tqdm"),
    "distiller": ("optuna", "onnx", "torch", "transformers", "accelerate", "tqdm", "sklearn"),
    "client": ("httpx",),
    "hub": ("huggingface_hub",),
    "wyoming": ("wyoming",),
    "loadtest": ("locust", "matplotlib", "scipy", "psutil"),
}


class MissingExtra(ImportError):  # noqa: N818 - a state of the installation, not a fault of the program
    """A package of an extra is not installed; the message is one sentence that names both."""


def require(extra: str, *modules: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    If one of this project's commands is run with ``python -m``, the message goes to standard error and the command ends
    with exit code 2. Otherwise it is raised as an exception.

    Args:
        extra: its name, such as "training".
        modules: the packages to look for, by the names under which they are imported; all of the extra by default.

    Raises:
        MissingExtra: one of them is not installed.
    """
    missing = next((module for module in modules or EXTRAS[extra] if find_spec(module) is None), None)
    if missing is None:
        return
    sentence = f"{missing} is not installed; this command needs: pip install 'distilled-nlu[{extra}]'"
    if _runs_a_command():
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2)
    raise MissingExtra(sentence, name=missing)


def _runs_a_command() -> bool:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.partition(".")[0] in PACKAGES
