"""The secret key of a run: a file of its own that only its owner can read, and subkeys that do not tell it."""

import os
import stat

import pytest

from distfa.errors import SpecError
from distfa.privacy.key import RunKey


def test_a_key_is_written_for_its_owner_alone_and_read_again(tmp_path):
    key, path = RunKey.new(), tmp_path / "keys" / "run.key"
    key.write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert RunKey.read(path) == key


def test_a_key_is_for_one_run_only(tmp_path):
    RunKey.new().write(tmp_path / "run.key")
    before = (tmp_path / "run.key").read_bytes()
    with pytest.raises(SpecError, match=r"which exists; a key is for one run only"):
        RunKey.new().write(tmp_path / "run.key")
    assert (tmp_path / "run.key").read_bytes() == before


def test_a_key_that_others_can_read_is_refused(tmp_path):
    RunKey.new().write(tmp_path / "run.key")
    os.chmod(tmp_path / "run.key", 0o640)
    with pytest.raises(SpecError, match=r"can be read by others \(mode 640\)"):
        RunKey.read(tmp_path / "run.key")


@pytest.mark.parametrize(
    ("content", "match"), [(b"short", "has 5 bytes, but a key has 32"), (None, "cannot read the key")]
)
def test_what_is_no_key_is_refused(tmp_path, content, match):
    path = tmp_path / "run.key"
    if content is not None:
        path.write_bytes(content)
        os.chmod(path, 0o600)
    with pytest.raises(SpecError, match=match):
        RunKey.read(path)


def test_subkeys_differ_from_each_other_and_from_run_to_run():
    keys = [RunKey.new(), RunKey.new(), RunKey.of_seed(0), RunKey.of_seed(1)]
    found = [part for key in keys for part in (key.secret, key.of_layer(1), key.of_layer(11), key.of_sampling())]
    assert len(set(found)) == len(found)
    assert {len(part) for part in found} == {32}


def test_nothing_that_is_shown_or_noted_contains_the_key():
    key = RunKey.new()
    shown = f"{key!r} {key.check} {key.seal('spec')}"
    assert key.secret.hex()[:16] not in shown
    assert key.of_layer(1).hex()[:16] not in shown


def test_a_seal_needs_the_key():
    assert RunKey.of_seed(0).seal("a") == RunKey.of_seed(0).seal("a")
    assert len({RunKey.of_seed(0).seal("a"), RunKey.of_seed(1).seal("a"), RunKey.of_seed(0).seal("b")}) == 3
