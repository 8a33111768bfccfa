"""The part of the Hugging Face hub that publishing and loading a student need, on a local port, in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Files = dict[str, bytes]
TOKEN = "hf_token_of_the_test"


class Hub(ThreadingHTTPServer):
    """A hub.

    Attributes:
        commits: by repository, its commits in order: id and all files.
        private: by repository, whether it was created as a private one.
        fetched: repository, revision and file of each download.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.commits: dict[str, list[tuple[str, Files]]] = {}
        self.private: dict[str, bool] = {}
        self.fetched: list[tuple[str, str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repository: str, files: Files) -> str:
        """Add a commit with these files, besides those of the last one. Returns its id."""
        before = self.commits.setdefault(repository, [])
        now = {**(before[-1][1] if before else {}), **files}
        commit = hashlib.sha1(repr((repository, len(before), sorted(now))).encode()).hexdigest()
        before.append((commit, now))
        return commit

    def find(self, repository: str, revision: str) -> tuple[str, Files] | None:
        """The commit of a revision."""
        commits = self.commits.get(repository, [])
        if revision == "main":
            return commits[-1] if commits else None
        return next((one for one in commits if one[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._download()

    def do_GET(self) -> None:
        self._download()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {TOKEN}" and "/validate" not in self.path:
            self._reply(401, {"error": "Invalid username or password."})
            return
        parts = self.path.strip("/").split("/")
        if parts[1] == "repos":
            made = json.loads(body)
            name = f"{made['organization']}/{made['name']}" if made.get("organization") else made["name"]
            self.server.private[name] = bool(made.get("private"))
            self.server.commits.setdefault(name, [])
            self._reply(200, {"url": f"{self.server.url}/{name}"})
        elif parts[1] == "validate-yaml":
            self._reply(200, {"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
            self._reply(200, {"files": [{**one, "shouldIgnore": False} for one in files]})
        else:
            rows = [json.loads(line) for line in body.splitlines()]
            files = {
                row["value"]["path"]: base64.b64decode(row["value"]["content"]) for row in rows if row["key"] == "file"
            }
            repository = f"{parts[2]}/{parts[3]}"
            commit = self.server.commit(repository, files)
            url = f"{self.server.url}/{repository}/commit/{commit}"
            self._reply(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})

    def _download(self) -> None:
        owner, name, _, revision, file = self.path.strip("/").split("/", 4)
        repository = f"{owner}/{name}"
        found = self.server.find(repository, revision)
        if found is None or file not in found[1]:
            code = "RepoNotFound" if repository not in self.server.commits else "RevisionNotFound"
            self._reply(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound" if found else code})
            return
        self.server.fetched.append((repository, revision, file))
        etag = f'"{hashlib.sha1(found[1][file]).hexdigest()}"'
        self._reply(200, found[1][file], {"ETag": etag, "X-Repo-Commit": found[0]})

    def _reply(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub in a thread."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()
