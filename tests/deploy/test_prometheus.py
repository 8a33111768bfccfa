"""The rules and the dashboard in a real Prometheus that scrapes a real service."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.prometheus import CONFIG, DASHBOARD, Prometheus, config_for, dashboard_queries, rule_queries
from tests.service.conftest import DOMAINS, write_student
from tests.service.server import Load, Server, run

SECONDS = 90.0  # within which every query must have returned data
DRIFTING = {"texts": 2000, "domains": dict.fromkeys(DOMAINS, 1 / 3), "confidence": [0.05] * 20}
SCOPE = {"method": "max_softmax", "head": "intent", "false_rejection_rate": 0.05, "thresholds": {"de-DE": 0.6}}
EXPERIMENT = """
[arms.control]
model = "s"
weight = 1
[arms.candidate]
model = "m"
weight = 1
[shadow]
model = "m"
share = 1.0
[friction]
rephrase_seconds = 1
session_seconds = 1
"""
TEXTS = [
    ("weck mich am freitag um neun", "de-DE"),
    ("spiel musik in berlin", "de-DE"),
    ("hm", "de-DE"),  # out of scope
    ("你 好", "de-DE"),  # unknown tokens
    ("wetter " * 100, "de-DE"),  # truncated
    ("che tempo fa domani a roma", "it-IT"),
]

pytestmark = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool on the PATH (Debian: apt-get install prometheus)",
)


def promtool(*arguments: str) -> None:
    """Run a check that must succeed."""
    done = subprocess.run(["promtool", *arguments], cwd=CONFIG, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_config_and_rules_are_valid() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", *map(str, sorted(CONFIG.glob("rules/*.yml"))))


@pytest.mark.parametrize("file", sorted(path.name for path in CONFIG.glob("tests/*.yml")))
def test_rules_pass_their_tests(file: str) -> None:
    promtool("test", "rules", f"tests/{file}")


def test_each_alert_is_tested_both_ways() -> None:
    """There is a test that it fires, and one that it is silent."""
    tests = "".join(path.read_text() for path in CONFIG.glob("tests/*.yml"))

    for alert in re.findall(r"alert: (\w+)", (CONFIG / "rules" / "alerts.yml").read_text()):
        assert re.search(rf"alertname: {alert}\n\s+exp_alerts:", tests), alert
        assert re.search(rf"alertname: {alert}}}", tests), alert


def test_each_recorded_series_is_used() -> None:
    recording = (CONFIG / "rules" / "recording.yml").read_text()
    everything = recording + (CONFIG / "rules" / "alerts.yml").read_text() + DASHBOARD.read_text()

    for name in re.findall(r"record: (\S+)", recording):
        assert len(re.findall(rf"{name}\b", everything)) > 1, name


def test_panels_have_distinct_ids_and_places() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A service that uses all metrics: two calibrated students in an experiment, one of them also a shadow."""
    for name in ("s", "m"):
        calibration = {"scope": SCOPE, "profile": {"de-DE": DRIFTING}}
        write_student(tmp_path / "students" / name, name, calibration=calibration)
    experiment = tmp_path / "experiment.toml"
    experiment.write_text(EXPERIMENT)
    limits = ["--permits", "4", "--max-batch", "4", "--cache-entries", "1000", "--workers", "2"]
    with Server("--students", str(tmp_path / "students"), "--experiment-file", str(experiment), *limits) as server:
        yield server


async def load(port: int, bodies: list[bytes]) -> None:
    """Send so much at once that some requests are refused, and the shadow drops texts."""
    async with Load(port, bodies, connections=32) as load:
        await load.closed(seconds=0.5)


def use(server: Server, round_number: int) -> None:
    """Send valid and invalid requests to every endpoint."""
    items = [{"text": f"{text} {round_number} {i}", "locale": locale} for i in range(30) for text, locale in TEXTS]
    run(load(server.port, [json.dumps(item).encode() for item in items]))
    for client in range(10):
        key = {"x-client-key": f"client {round_number} {client}"}
        for text, locale in TEXTS[:2] * 2:  # the second time is a rephrase
            reply = server.ask("POST", "/v1/nlu", {"text": text, "locale": locale}, key)
            assert reply.status == 200
        feedback = {"request_id": json.loads(reply.content)["request_id"], "outcome": "abandoned"}
        assert server.ask("POST", "/v1/feedback", feedback, key).status == 200
    expected: list[tuple[str, Any, int]] = [
        ("/v1/nlu/batch", {"items": items[:4]}, 200),
        ("/v1/nlu/batch", {"items": items[:5]}, 413),
        ("/v1/domain", items[0], 200),
        ("/v1/nlu", {**items[0], "model": "q"}, 404),
        ("/v1/nlu", {"text": 3}, 422),
    ]
    for path, body, status in expected:
        assert server.ask("POST", path, body).status == status


def test_every_query_returns_data(server: Server, tmp_path: Path) -> None:
    """Alerts are queried without their comparisons: promtool tests whether they fire."""
    with Prometheus(config_for(server.port, tmp_path), tmp_path) as prometheus:
        queries = dashboard_queries() | rule_queries(prometheus.rules())
        deadline = time.monotonic() + SECONDS
        for round_number in count():
            use(server, round_number)
            queries = {where: query for where, query in queries.items() if not prometheus.values(query)}
            if not queries:
                break
            without = [f"{where}: {query}" for where, query in queries.items()]
            assert time.monotonic() < deadline, "no data for\n" + "\n".join(without)

        assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
        assert prometheus.values("nlu_ready") == [1]
