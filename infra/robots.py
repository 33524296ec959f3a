"""What a site says about its images in the `X-Robots-Tag` response header."""

from __future__ import annotations

from collections.abc import Iterable

# Directives that carry a value after a colon; any other `name:` in the header addresses a crawler.
VALUED_DIRECTIVES = frozenset({"max-snippet", "max-image-preview", "max-video-preview", "unavailable_after"})


def directive_against(
    headers: Iterable[str], disallowed: frozenset[str], user_agent_token: str
) -> str | None:
    """The first disallowed directive that applies to us, or None.

    Each header value is a comma-separated list of directives, optionally addressed: in
    `otherbot: noindex, nofollow` both apply to `otherbot` alone, until another crawler is named.
    """
    for value in headers:
        addressee = ""
        for part in value.lower().split(","):
            name, colon, rest = part.partition(":")
            directive = name.strip()
            if colon and directive not in VALUED_DIRECTIVES:
                addressee, directive = directive, rest.partition(":")[0].strip()
            if directive in disallowed and addressee in ("", user_agent_token.lower()):
                return directive
    return None
