"""What these protocols leave to the path, the query and the settings: the name of the student and the locale."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import parse_qsl

from service.errors import InvalidRequest
from service.http.context import RequestContext
from service.models.queue import LoadedModel


def query_of(context: RequestContext, allowed: Collection[str]) -> dict[str, str]:
    """The parameters of a request's query.

    Raises:
        InvalidRequest: one is unknown or stands there twice, or the query is not UTF-8; no value is repeated.
    """
    try:
        pairs = parse_qsl(context.scope.get("query_string", b"").decode(), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest(problem="query: is not UTF-8") from None
    except ValueError:
        raise InvalidRequest(problem="query: has too many parameters") from None
    query = dict(pairs)
    if query.keys() - set(allowed) or len(query) != len(pairs):
        raise InvalidRequest(problem=f"query: each of {', '.join(allowed)} is allowed once, and nothing else")
    return query


def locale_of(sent: str | None, default: str | None, model: LoadedModel) -> str:
    """The locale of a text: the one that was sent, else `default`, else the only one that the student knows.

    Raises:
        InvalidRequest: there is none, as the student knows several.
    """
    locale = default if sent is None else sent
    if locale is not None:
        return locale
    locales = model.student.manifest.locales
    if len(locales) > 1:
        raise InvalidRequest(
            problem=f"locale: is required, since student {model.name} knows {', '.join(locales)}; the server's "
            "--default-locale sets one for requests without"
        )
    return locales[0]
