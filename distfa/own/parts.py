"""What a user brings to distfa from outside: rules, losses, metrics, codecs, schedules of learning rates, and models.

A part has a name: ``package.module:name`` of what is to be imported, or the name of an entry point of an installed
package. A part that was given as an object and cannot be imported under its name gets a name with a digest. This file
finds parts by name, keeps those of this process, and takes them to other processes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from importlib import metadata
from typing import Any, NamedTuple, TypeVar

from distfa.errors import ClusterError, SpecError
from distfa.own.digests import digest_of, is_installed
from distfa.own.finding import GIVEN_AS_OBJECT, find_object, is_path
from distfa.text.words import not_among

T = TypeVar("T")


class Part(NamedTuple):
    """A user's part on its way to another process.

    Attributes:
        noun: Its kind.
        name: What the spec calls it.
        value: As it was given.
        digest: Of its code and its settings.
    """

    noun: str
    name: str
    value: Any
    digest: str


class Parts(dict[str, T]):
    """The parts of one kind by name: distfa's own are its items, others are found when they are asked for.

    Args:
        noun: What one is called, as in ``rule``; the entry points are ``distfa.<noun>s``.
        built_in: distfa's own.
        accept: Makes what distfa uses of what the user gives.

    Raises:
        SpecError: There is no such part, or it is not of this kind (``accept`` raised ``ValueError``).
        ModelError: To import it raised an error.
    """

    def __init__(self, noun: str, built_in: Mapping[str, T], accept: Callable[[Any], T]) -> None:
        super().__init__(built_in)
        self.noun, self._accept = noun, accept
        self._given: dict[str, Any] = {}
        self._made: dict[str, T] = {}
        _TABLES[noun] = self

    def __missing__(self, name: str) -> T:
        if name not in self._made:
            self._put(name, self._import(name))
        return self._made[name]

    def adopt(self, value: Any) -> str:
        """The name under which an object is found from now on, in this process and in those of its runs."""
        if isinstance(value, str):
            return value
        module, name = getattr(value, "__module__", ""), getattr(value, "__qualname__", "")
        if not name:
            module, name = type(value).__module__, type(value).__qualname__
        path = f"{module}:{name}"
        if getattr(sys.modules.get(module), name, None) is not value or module == "__main__":
            path += f"{GIVEN_AS_OBJECT}{digest_of(value)}"
        self._put(path, value)
        return path

    def take(self, part: Part) -> None:
        """Keep a part that came from another process.

        Raises:
            ClusterError: It is of an installed package, which has other code here.
        """
        if is_installed(part.value) and (here := digest_of(part.value)) != part.digest:
            raise ClusterError(
                f"the code of {self.noun} {part.name!r} is another here (digest {here}) than where the run was started "
                f"({part.digest}), so weights would not be reproducible; install the same version on every node"
            )
        self._put(part.name, part.value)

    def part(self, name: str) -> Part | None:
        """What other processes need to know of it; None for distfa's own."""
        if name in self:
            return None
        self[name]  # finds it
        value = self._given[name]
        return Part(self.noun, name, value, digest_of(value))

    def known(self, name: str) -> T | None:
        """The part, if it needs no import; None otherwise."""
        return self[name] if name in self or name in self._made else None

    def require_name(self, value: str, also: Collection[str] = ()) -> str:
        """The name, if it is one that a part can have; nothing is imported.

        Raises:
            ValueError: It is none.
        """
        if is_path(value) or value in self or value in also or value in self.installed():
            return value
        raise ValueError(f"{not_among(value, [*also, *self, *self.installed()])}; your own is package.module:name")

    def forget(self) -> None:
        """Forget what was found and given, so that it is imported again."""
        self._given.clear()
        self._made.clear()

    def installed(self) -> dict[str, metadata.EntryPoint]:
        """Those of installed packages, by the names of their entry points."""
        return {entry.name: entry for entry in metadata.entry_points(group=f"distfa.{self.noun.replace(' ', '_')}s")}

    def _put(self, name: str, value: Any) -> None:
        try:
            self._made[name] = self._accept(value)
        except ValueError as exc:
            raise SpecError(f"{self.noun} {name!r} {exc}") from exc
        self._given[name] = value

    def _import(self, name: str) -> Any:
        what = f"{self.noun} {name!r}"
        if GIVEN_AS_OBJECT in name:
            raise SpecError(
                f"{what} was an object in Python, which is not saved; give it to Trainer again, or put it into a file "
                "and name it package.module:name"
            )
        if is_path(name):
            return find_object(name, what)
        if (entry := self.installed().get(name)) is None:
            raise SpecError(f"{what} {not_among(name, [*self, *self.installed()])}; your own is package.module:name")
        return find_object(entry.value, what)


_TABLES: dict[str, Parts[Any]] = {}


def made(given: Any) -> Any:
    """An object of what was given, if that is a class; else what was given.

    Raises:
        ValueError: The class cannot be called without arguments.
    """
    try:
        return given() if isinstance(given, type) else given
    except Exception as exc:
        raise ValueError(
            f"is a class that cannot be called without arguments ({type(exc).__name__}: {exc}); give an object of it, "
            "or in a spec the name of one in your module"
        ) from exc


def take_parts(parts: Iterable[Part]) -> None:
    """Let this process know parts that came from another one.

    Raises:
        ClusterError: As ``Parts.take``.
    """
    for part in parts:
        _TABLES[part.noun].take(part)


def digests(parts: Iterable[Part]) -> dict[str, str]:
    """Their digests, by kind and name."""
    return {f"{part.noun} {part.name}": part.digest for part in parts}


def short(name: str) -> str:
    """The last part of a name, such as can be in that of a file."""
    return name.partition(GIVEN_AS_OBJECT)[0].rpartition(":")[2].rpartition(".")[2].strip("<>")
