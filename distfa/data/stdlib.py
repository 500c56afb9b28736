"""Characters of Python's own standard library: always there, so that text needs no file and no network either.

They come from a fixed list of modules that Python 3.11 and later all have as source files. The text is that of the
running Python, so it differs a little between versions; ``Dataset.source`` names the version and a digest.
"""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distfa.data.build import Split, build_dataset
from distfa.data.dataset import Dataset
from distfa.data.request import Request
from distfa.errors import DataError

LENGTH = 64
CHARACTERS = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
UNKNOWN = len(CHARACTERS)
VOCABULARY = len(CHARACTERS) + 1

_NAMES = """
    argparse ast asyncio/base_events asyncio/streams asyncio/tasks calendar codecs collections/__init__ configparser
    contextlib csv dataclasses difflib email/message enum fractions functools heapq http/client http/server
    ipaddress json/decoder json/encoder logging/__init__ os pickle random shutil smtplib socket statistics
    subprocess tempfile textwrap threading traceback unittest/case urllib/parse urllib/request weakref
"""
MODULES = tuple(_NAMES.split())
_TEST_EVERY = 10
UNKNOWN_CHARACTER = "\N{REPLACEMENT CHARACTER}"

_ASCII = 128
_TOKENS = np.full(_ASCII, UNKNOWN, np.uint8)
_TOKENS[[ord(character) for character in CHARACTERS]] = np.arange(len(CHARACTERS))
_TOKENS[ord("\t")] = CHARACTERS.index(" ")


def load_stdlib(request: Request) -> Dataset:
    """Windows of 64 characters; the target of each position is the character after it.

    The vocabulary is newline, the 95 printable ASCII characters (a tab counts as a space) and one symbol for
    all others. Windows follow one another without overlap and never cross the end of a file. Every tenth
    module goes to the test split, so no text is in both.

    Raises:
        DataError: This Python does not have its standard library as source files.
    """
    texts = [encode(_read(module)) for module in MODULES]
    digest = hashlib.sha256(b"".join(tokens.tobytes() for tokens in texts)).hexdigest()
    test = texts[_TEST_EVERY - 1 :: _TEST_EVERY]
    train = [tokens for number, tokens in enumerate(texts, start=1) if number % _TEST_EVERY]
    return build_dataset(
        name=request.name,
        train=_windows(train),
        test=_windows(test),
        outputs=VOCABULARY if request.classes is None else request.classes,
        tokens=VOCABULARY,
        class_names=(*CHARACTERS, UNKNOWN_CHARACTER),
        vocabulary=(*CHARACTERS, UNKNOWN_CHARACTER),
        source=f"{len(MODULES)} modules of Python {platform.python_version()}, sha256 {digest[:16]}",
    )


def encode(text: str) -> NDArray[np.uint8]:
    """The token of every character, shape (len(text),)."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    return np.where(points < _ASCII, _TOKENS[np.minimum(points, _ASCII - 1)], np.uint8(UNKNOWN))


def decode(tokens: NDArray[np.uint8]) -> str:
    """The text of tokens (n,), the unknown symbol as U+FFFD."""
    return "".join((*CHARACTERS, UNKNOWN_CHARACTER)[token] for token in tokens)


def _read(module: str) -> str:
    path = Path(sysconfig.get_path("stdlib")) / f"{module}.py"
    try:
        return path.read_text("utf-8", errors="replace")  # reads any line end as a newline
    except OSError as exc:
        raise DataError(
            f"data set 'stdlib' is the text of Python's own modules, and {path} cannot be read ({exc}); use a "
            "Python that ships its standard library as source files"
        ) from exc


def _windows(texts: list[NDArray[np.uint8]]) -> Split:
    """(inputs, targets), both (windows, LENGTH): targets are one character later."""
    ends = [(len(tokens) - 1) // LENGTH * LENGTH for tokens in texts]
    inputs = [tokens[:end] for tokens, end in zip(texts, ends, strict=True)]
    targets = [tokens[1 : end + 1] for tokens, end in zip(texts, ends, strict=True)]
    return np.concatenate(inputs).reshape(-1, LENGTH), np.concatenate(targets).reshape(-1, LENGTH)
