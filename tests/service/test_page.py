"""The web page and the headers under which it runs."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest


@pytest.mark.parametrize("tag", ["script", "style"])
def test_policy_allows_only_the_blocks_of_the_page(client: Any, tag: str) -> None:
    response = client.get("/")

    blocks = re.findall(f"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
    assert len(blocks) == 1
    assert f"{tag}-src 'sha256-{digests[0]}';" in response.headers["content-security-policy"]


def test_page_needs_nothing_from_elsewhere(client: Any) -> None:
    page = client.get("/").text

    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page)
    assert not re.search(r"""\sstyle=|\son\w+=""", page)
    assert "innerHTML" not in page


def test_security_headers(client: Any) -> None:
    headers = client.get("/").headers

    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_every_control_has_a_label(client: Any) -> None:
    page = client.get("/").text

    controls = re.findall(r'<(?:textarea|select|input) id="(\w+)"', page)
    labels = re.findall(r'<label for="(\w+)"', page)
    assert set(controls) == set(labels) == {"key", "text", "locale", "model", "compare"}
