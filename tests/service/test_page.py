"""The web page and the headers under which it runs."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest


@pytest.mark.parametrize(("path", "tag", "count"), [("/", "script", 1), ("/", "style", 1), ("/docs", "style", 1)])
def test_policy_allows_only_the_blocks_of_the_page(client: Any, path: str, tag: str, count: int) -> None:
    response = client.get(path)

    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
    assert len(blocks) == count
    assert f"{tag}-src 'sha256-{digests[0]}';" in response.headers["content-security-policy"]


def test_reference_has_no_script(client: Any) -> None:
    response = client.get("/docs")

    assert "<script" not in response.text
    assert "script-src 'none';" in response.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_needs_nothing_from_elsewhere(client: Any, path: str) -> None:
    page = client.get(path).text

    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert not re.search(r"""\sstyle=|\son\w+=""", page)
    assert "innerHTML" not in page


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_security_headers(client: Any, path: str) -> None:
    headers = client.get(path).headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_reference_has_every_route_and_model(client: Any) -> None:
    page, document = client.get("/docs").text, client.get("/openapi.json").json()

    for path, methods in document["paths"].items():
        for method in methods:
            assert f"<h2><code>{method.upper()} {path}</code></h2>" in page
    anchors = re.findall(r'<h2 id="(\w+)">', page)
    assert sorted(anchors) == sorted(name.lower() for name in document["components"]["schemas"])
    assert set(re.findall(r'href="#(\w+)"', page)) <= set(anchors)
    assert not re.search(r"`|\]\(", page)


def test_every_control_has_a_label(client: Any) -> None:
    page = client.get("/").text

    controls = re.findall(r'<(?:textarea|select|input) id="(\w+)"', page)
    labels = re.findall(r'<label for="(\w+)"', page)
    assert set(controls) == set(labels) == {"key", "text", "locale", "model", "compare"}
