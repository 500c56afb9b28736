"""The key of a private run: made for a new one, kept outside its directory, asked for again by one that resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distfa.errors import CheckpointError, SpecError
from distfa.privacy.key import KEYS, RunKey
from distfa.run import notes
from distfa.run.disk.run_dir import RunDir, expand_path, read_about
from distfa.settings import RunSpec
from distfa.text import strict_json

_ABOUT = "privacy"


def find_key(spec: RunSpec, resume: Path | None) -> RunKey:
    """The key of a run: a new one, that of the run that resumes, or the one that everyone can make from the seed.

    Raises:
        SpecError: The key of the run that resumes cannot be read.
        CheckpointError: It is another run's.
    """
    if spec.privacy.seeded:
        return RunKey.of_seed(spec.seed)
    if resume is None:
        return RunKey.new()
    about = read_about(expand_path(resume)).get(_ABOUT, {})
    path = expand_path(spec.privacy.key or about.get("key", ""))
    key = RunKey.read(path)
    if key.check != about.get("check"):
        raise CheckpointError(f"the key in {path} is not that of the run in {resume}; set privacy.key to the run's own")
    return key


def require_same(key: RunKey, spec: RunSpec, identity: Mapping[str, Any], resume: Path) -> None:
    """Refuse to use a key again for anything but the same run.

    Args:
        key: Of the run that resumes.
        spec: As it is now.
        identity: What decides the weights, as it is now.
        resume: The run's directory.

    Raises:
        CheckpointError: It was another then: the same noise on both could be subtracted.
    """
    about = read_about(expand_path(resume)).get(_ABOUT, {})
    if not spec.privacy.seeded and key.seal(_described(identity)) != about.get("seal"):
        raise CheckpointError(
            f"the spec, the data, the model or the version of distfa is not that of the private run in {resume}, and "
            "its noise must not be used for another: put back what has changed, or start a new run"
        )


def about_key(key: RunKey, spec: RunSpec, identity: Mapping[str, Any], run_id: str) -> Mapping[str, Any]:
    """What run.json says of the key: where it is, and how it and its run are recognised; nothing of what it is."""
    if spec.privacy.seeded:
        return {_ABOUT: {"seeded": True}}
    path = expand_path(spec.privacy.key or f"{KEYS}/{run_id}.key").absolute()
    return {_ABOUT: {"key": str(path), "check": key.check, "seal": key.seal(_described(identity))}}


def keep_key(key: RunKey, run_dir: RunDir) -> None:
    """Write the key of a new run to its file.

    Raises:
        SpecError: The file exists, is in the run directory, or cannot be written.
    """
    if (said := run_dir.about[_ABOUT].get("key")) is None:
        return
    path = Path(said)
    if path.resolve().is_relative_to(run_dir.path.resolve()):
        raise SpecError(
            f"privacy.key is {path}, in the run directory, which is copied and passed on; set it to a file elsewhere"
        )
    key.write(path)


def _described(identity: Mapping[str, Any]) -> str:
    return strict_json.dumps({**identity, "spec": notes.deciding(identity)})
