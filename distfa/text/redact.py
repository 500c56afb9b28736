"""Passwords and keys in URLs: they are used, and never written down or shown."""

from __future__ import annotations

import re
from typing import Any

MARK = "***"
_PASSWORD = re.compile(r"(?P<before>\b[A-Za-z][\w+.-]*://[^/\s:@]*:)(?P<secret>[^/\s]+)(?=@)")
_PARAMETER = re.compile(
    r"(?P<before>[?&][^=&\s]*(?:token|secret|passw|key|sig|credential)[^=&\s]*=)(?P<secret>[^&\s]+)", re.IGNORECASE
)


def redact(text: str) -> str:
    """The text, where ``ftp://me:secret@host/`` and ``?token=secret`` have ``***`` in place of the secret."""
    for form in (_PASSWORD, _PARAMETER):
        text = form.sub(rf"\g<before>{MARK}", text)
    return text


def redact_all(value: Any) -> Any:
    """The same for every text in dictionaries and lists."""
    if isinstance(value, dict):
        return {key: redact_all(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def remove_marks(url: str) -> str:
    """A URL that was redacted, without what stands for its secrets; the library that opens it finds them elsewhere."""
    url = url.replace(f":{MARK}@", "@")
    return re.sub(r"[?&][^=&\s]*=" + re.escape(MARK), "", url)
