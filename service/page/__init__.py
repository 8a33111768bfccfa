"""The web pages, served with headers that allow only their own script and style."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.http.context import Reply
from service.page.reference import render

INDEX = Path(__file__).parent / "index.html"


def load_page() -> Reply:
    """The reply to ``GET /``."""
    return _page_reply(INDEX.read_bytes())


def load_reference(document: Mapping[str, Any]) -> Reply:
    """The reply to ``GET /docs``: the service's OpenAPI document, for people."""
    return _page_reply(render(document).encode())


def _page_reply(body: bytes) -> Reply:
    """A page, with a content security policy that names its inline blocks by their hashes."""
    script, style = (_hashes(body, tag) for tag in ("script", "style"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return Reply(body, tuple((name.encode(), value.encode()) for name, value in headers.items()))


def _hashes(page: bytes, tag: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.DOTALL)
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(block).digest()).decode()}'" for block in blocks]
    return " ".join(hashes) or "'none'"
