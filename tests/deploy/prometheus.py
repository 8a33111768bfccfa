"""A real Prometheus with the project's config, and the queries of its rules and dashboard."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

DEPLOY = Path(__file__).parents[2] / "deploy"
CONFIG = DEPLOY / "prometheus"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
PATIENCE = 30.0
VARIABLES = {"$model": ".*", "$locale": ".*", "$__rate_interval": "1m", "$__range": "5m"}


def config_for(port: int, folder: Path) -> Path:
    """A copy of the config that scrapes one service every second, to make the test fast.

    For the same reason the day that an alert compares with ends now, not an hour ago. Windows are unchanged: a rate
    needs only two samples.
    """
    copy = shutil.copytree(CONFIG, folder / "prometheus")
    _replace(copy / "prometheus.yml", {"15s": "1s", "localhost:8000": f"127.0.0.1:{port}"})
    _replace(copy / "rules" / "alerts.yml", {" offset 1h": ""})
    return copy / "prometheus.yml"


def _replace(file: Path, changes: dict[str, str]) -> None:
    text = file.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


class Prometheus:
    """A Prometheus on a free port, until the end of the ``with`` block."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._log = folder / "prometheus.log"
        arguments = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                ["prometheus", *arguments, "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=log
            )
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Self:
        """Wait until it answers queries."""
        deadline = time.monotonic() + PATIENCE
        while "ready to receive web requests" not in (log := self._log.read_text()):
            assert self._process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        found = re.search(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', log)
        assert found, log
        self._port = int(found[1])
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self._process.terminate()
        self._process.wait(PATIENCE)

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an API reply."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with self._opener.open(url, timeout=PATIENCE) as response:
            return json.load(response)["data"]

    def values(self, query: str) -> list[float]:
        """The current values of a query, without NaN."""
        found = [float(sample["value"][1]) for sample in self.ask("query", query=query)["result"]]
        return [value for value in found if not math.isnan(value)]

    def rules(self) -> list[dict[str, Any]]:
        """All rules as they were loaded: type, name, query, health."""
        return [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]


def dashboard_queries() -> dict[str, str]:
    """The dashboard's queries by place: panels, variables and annotations, with variables filled in."""
    board = json.loads(DASHBOARD.read_text())
    return {where: _filled(query) for where, query in _queries_of(board)}


def _queries_of(board: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']!r} {target['refId']}", target["expr"]
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert found
            yield f"variable {variable['name']}", f"count by ({found[2]}) ({found[1]})"
    for annotation in board["annotations"]["list"]:
        yield f"annotation {annotation['name']!r}", without_filter(annotation["expr"])


def _filled(query: str) -> str:
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query


def rule_queries(rules: list[dict[str, Any]]) -> dict[str, str]:
    """The rules' queries by name; those of alerts without their comparisons."""
    return {
        f"{rule['type']} rule {rule['name']}": rule["query"]
        if rule["type"] == "recording"
        else without_filter(rule["query"])
        for rule in rules
    }


def without_filter(query: str) -> str:
    """A query whose comparisons return 0 or 1 instead of filtering.

    So it returns nothing only if it has no data. ``absent(x)`` becomes ``x``.
    """
    return re.sub(r" (==|<|>) ", r" \1 bool ", re.sub(r"absent\((.*)\)", r"\1", query))
