"""What must not be written down: passwords and tokens in addresses, and what secret environment variables hold."""

import logging
import os
import re
from typing import Any

from pairloom.storage.escaping import plain_lines

HIDDEN = "***"
SHORTEST = 8
"""Characters of a secret environment variable that are looked for: fewer would be found in any word."""
_NAME = (
    r"(?:[\w.-]{0,64}(?:token|secret|passw(?:or)?d|passphrase|signature|credentials?|api[_-]?key|access[_-]?key)[\w.-]{0,64}"
    r"|key|sig|pwd|auth|authorization|sas|jwt)"
)
_USER = re.compile(r"(?<=://)[^\s/?#@'\"]*(?:@[^\s/?#@'\"]*)*@")
_PARAMETER = re.compile(rf"(?i)(?<=[?&;]){_NAME}=[^\s&#'\"<>]*")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
_VARIABLE = re.compile(r"(?i)token|secret|passw|credential|api_?key|access_?key|private_?key|auth_string")


def redacted(text: str) -> str:
    """The text with `***` for credentials in addresses and for the values of secret environment variables."""
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _PARAMETER.sub(lambda found: f"{found.group().partition('=')[0]}={HIDDEN}", text)
    text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and _VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return text


def redacted_values(document: Any) -> Any:
    """The same of every string of a document, keys left as they are."""
    if isinstance(document, str):
        return redacted(document)
    if isinstance(document, dict):
        return {key: redacted_values(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [redacted_values(value) for value in document]
    return document


class SafeFormatter(logging.Formatter):
    """Lines of a log without secrets, and without anything that a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(redacted(super().format(record)))


def redact_record(record: logging.LogRecord) -> bool:
    """A filter for handlers that format by themselves: lets every record pass, without its secrets."""
    record.msg, record.args = plain_lines(redacted(record.getMessage())), None
    return True
