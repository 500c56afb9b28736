"""Surveys what a run's exact bits depend on at a node: Python, the libraries, and distfa's own code.

The function that finds this out is sent to every node as code, not by name: a node with another distfa must still be
able to answer and say so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from distfa.errors import ClusterError

Facts = dict[str, str]
_AGREE = ("python", "torch", "numpy", "distfa")


def surveyor() -> Callable[[], Facts]:
    """A separate function that needs only Python's standard library where it runs."""

    def survey() -> Facts:
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import platform

        facts = {"python": ".".join(platform.python_version_tuple()[:2])}
        for package in ("torch", "numpy"):
            try:
                facts[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                facts[package] = "not installed"
        spec = importlib.util.find_spec("distfa")
        if spec is None or not spec.submodule_search_locations:
            return {**facts, "distfa": "not installed", "path": ""}
        folder = pathlib.Path(next(iter(spec.submodule_search_locations))).resolve()
        digest = hashlib.sha256()
        for file in sorted(folder.rglob("*.py"), key=lambda file: file.relative_to(folder).as_posix()):
            text = file.read_bytes()
            digest.update(f"{file.relative_to(folder).as_posix()} {len(text)} ".encode() + text)
        return {**facts, "distfa": f"code {digest.hexdigest()[:12]}", "path": str(folder)}

    return survey


def require_same_software(mine: Facts, theirs: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
    """Refuse nodes on which a run would compute different bits.

    Args:
        mine: The facts of this process.
        theirs: (node's address, facts) by worker, in words.

    Raises:
        ClusterError: A worker's node differs; both sides are named.
    """
    for worker, (address, facts) in theirs.items():
        apart = [key for key in _AGREE if facts.get(key) != mine[key]]
        if not apart:
            continue
        if apart == ["distfa"]:
            raise ClusterError(
                f"{worker} on node {address} imports distfa from {facts.get('path') or 'nowhere'} "
                f"({facts.get('distfa')}), this process from {mine['path']} ({mine['distfa']}), so weights would "
                "not be reproducible; install the same distfa on every node, and start runs in a directory "
                "without a folder named distfa"
            )
        here, there = (", ".join(f"{key} {side.get(key)}" for key in apart) for side in (mine, facts))
        raise ClusterError(
            f"{worker} on node {address} runs {there}, this process {here}, so weights would not be "
            "reproducible; install the same versions on every node"
        )
