"""Students on the Hugging Face hub: ``hub:OWNER/NAME[@REVISION]`` in the place of a student folder.

The files that the manifest lists are downloaded into the hub's cache, and checked as those of any folder when the
student is loaded; nothing else is, so no code and no pickle. Needs `huggingface_hub`, the extra ``[hub]``, which reads
HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE from the environment.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

from service.student.manifest import MANIFEST_FILE, StudentError, read_json, validated

PREFIX = "hub:"
COMMIT = re.compile(r"[0-9a-f]{40}")
SOURCE = re.compile(r"hub:(?P<repository>[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)

log = logging.getLogger("service")


def is_hub_source(student: str | Path) -> bool:
    """Whether a student is named as one of the hub."""
    return str(student).startswith(PREFIX)


def download(source: str) -> Path:
    """The folder with the files of ``hub:OWNER/NAME[@REVISION]``, in the hub's cache; its name is the commit.

    REVISION is a commit, a tag or a branch; without one, it is the branch ``main``. All files are of the same commit.

    Raises:
        StudentError: the name is malformed, `huggingface_hub` is not installed, the repository can't be reached, or it
            has no valid student.
    """
    match = SOURCE.fullmatch(source)
    if match is None:
        raise StudentError(f"{source}: should be hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise StudentError(f"{source}: students of the hub need: pip install 'distilled-nlu[hub]'") from error
    repository, revision = match["repository"], match["revision"] or "main"
    manifest_file = _fetched(source, lambda: hf_hub_download(repository, MANIFEST_FILE, revision=revision))
    folder = manifest_file.parent
    commit = folder.name
    for name in validated(folder, read_json(folder)).files:
        file = _fetched(source, lambda name=name: hf_hub_download(repository, name, revision=commit))  # type: ignore[misc]
        if file.parent != folder:  # the cache names its folders by commit
            raise StudentError(f"{source}: {name} is not of the commit {commit}")
    if revision != commit:
        log.info("%s is at the commit %s; hub:%s@%s names this version for good", source, commit, repository, commit)
    return folder


def pinned(source: str) -> str:
    """The source with the commit that its revision stands for now; any other name of a student is returned as it is.

    Raises:
        StudentError: as `download`.
    """
    if not is_hub_source(source):
        return source
    return f"{source.partition('@')[0]}@{download(source).name}"


def _fetched(source: str, fetch: Callable[[], str]) -> Path:
    try:
        return Path(fetch())
    except Exception as error:  # the library raises a family of unrelated types
        lines = str(error).strip().splitlines() or [""]
        raise StudentError(f"{source}: can't be fetched: {type(error).__name__}: {lines[0]}") from error
