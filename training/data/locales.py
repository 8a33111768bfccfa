"""Locales: BCP-47 tags, and those in the names of files."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

# ISO 639-1. Two letters in a file's name are a locale only if they are among these.
_LANGUAGES = frozenset(
    re.findall(
        r"[a-z]+",
        """
    aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee
    el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io
    is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn
    mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se
    sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo
    wa wo xh yi yo za zh zu
        """,
    )
)
_TAG = re.compile(
    r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|\d{3}))?((?:[-_](?:[A-Za-z0-9]{5,8}|\d[A-Za-z0-9]{3}))*)"
)
_AT_AN_END = re.compile(
    r"(?:^|.*[._\- ])(?P<last>[a-z]{2}(?:[-_][A-Z]{2})?)$|^(?P<first>[a-z]{2}[-_][A-Z]{2})[._\- ].*"
)


def normalised(tag: str) -> str | None:
    """A locale as BCP-47 writes it: "de_DE" and "de-de" are "de-DE", "de_XX" (no region) is "de".

    None: it is no language tag.
    """
    match = _TAG.fullmatch(tag.strip())
    if match is None:
        return None
    language, script, region, variants = match.groups()
    region = None if region and region.upper() in ("XX", "ZZ") else region
    parts = [language.lower(), *([script.title()] if script else ()), *([region.upper()] if region else ())]
    return "-".join(parts) + variants.replace("_", "-").lower()


def language_of(locale: str) -> str:
    """The language of a locale: "de" of "de-DE"."""
    return locale.split("-")[0]


def locale_of_name(name: str) -> str | None:
    """The locale that a file is named after, or else the nearest folder: "de-DE.jsonl", "nlu_de.yml", "de/nlu.yml"."""
    path = PurePosixPath(name)
    for part in path.name.removesuffix(".gz").split(".")[:-1] or [path.name]:
        if found := _locale_in(part):
            return found
    return next((found for folder in reversed(path.parts[:-1]) if (found := _whole(folder))), None)


def _whole(text: str) -> str | None:
    tag = normalised(text) if re.fullmatch(r"[a-z]{2}([-_][A-Za-z]{2})?", text) else None
    return tag if tag and language_of(tag) in _LANGUAGES else None


def _locale_in(stem: str) -> str | None:
    match = _AT_AN_END.fullmatch(stem)
    return _whole(stem) or (_whole(match["last"] or match["first"]) if match else None)
