"""Passwords in URLs are in no file and no message, and a run goes on without them in its spec."""

import pytest
from commands import here
from fsspec import register_implementation
from fsspec.config import conf
from fsspec.implementations.memory import MemoryFileSystem

from distfa.errors import CheckpointError
from distfa.text.redact import MARK, redact, redact_all, remove_marks

SECRET = "hunter2+x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"ftp://me:{SECRET}@host/run", "ftp://me:***@host/run"),
        (f"cannot write ftp://me:p@{SECRET}@host/run: gone", "cannot write ftp://me:***@host/run: gone"),
        (f"--set=checkpoint.dir=sftp://me:{SECRET}@h:22/x", "--set=checkpoint.dir=sftp://me:***@h:22/x"),
        (f"abfs://box/run?sig={SECRET}&v=1", "abfs://box/run?sig=***&v=1"),
        (f"https://host/x?v=1&access_token={SECRET}", "https://host/x?v=1&access_token=***"),
        ("http://127.0.0.1:8265", "http://127.0.0.1:8265"),
        ("s3://bucket/run, host:6379, me@host", "s3://bucket/run, host:6379, me@host"),
        ("ftp://me@host/run?v=1", "ftp://me@host/run?v=1"),
    ],
)
def test_what_is_secret_in_a_url_is_not_shown_and_nothing_else_is_changed(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown
    assert redact_all({"a": [text, 1, None]}) == {"a": [shown, 1, None]}
    assert str(CheckpointError(text)) == shown


def test_marks_are_left_out_where_a_place_is_opened():
    assert remove_marks("ftp://me:***@host/run") == "ftp://me@host/run"
    assert remove_marks("abfs://box/run?sig=***") == "abfs://box/run"


class Vault(MemoryFileSystem):
    """A place that opens for a password only."""

    protocol = "vault"
    cachable = False
    store, pseudo_dirs = {}, [""]

    def __init__(self, password="", **more):
        super().__init__(**more)
        if password != SECRET:
            raise PermissionError(f"530 login incorrect at vault://me:{password}@box")

    @staticmethod
    def _get_kwargs_from_urls(url):
        user = url.removeprefix("vault://").partition("@")[0]
        return {"password": user.partition(":")[2]} if ":" in user else {}

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.rpartition("@")[2].removeprefix("vault://").strip("/")


@pytest.fixture
def vault(monkeypatch):
    register_implementation("vault", Vault, clobber=True)
    monkeypatch.setattr(Vault, "store", {})
    return f"vault://me:{SECRET}@box/kept"


def test_a_password_is_in_no_file_and_a_resume_takes_it_from_fsspecs_configuration(vault, tmp_path, monkeypatch):
    """It stood in spec.yaml and run.json, which all may read, and in messages."""
    size = ("--engine", "serial", "--hidden", 8, "--set", "data.limit=64", "--epochs", 6)
    cuts = ("--set", "checkpoint.every=2", "--set", "checkpoint.seconds=0", "--set", f"checkpoint.dir={vault}")
    done = here("train", *size, *cuts, "--run-dir", "run", cwd=tmp_path)
    assert Vault.store
    said = done.stdout + done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) >= 6
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in said
    assert f"dir: vault://me:{MARK}@box/kept" in (tmp_path / "run" / "spec.yaml").read_text()
    about = tmp_path / "run" / "run.json"
    assert f"checkpoint.dir=vault://me:{MARK}@box/kept" in about.read_text()

    about.write_text(about.read_text().replace('"status": "finished"', '"status": "running"'))
    refused = here("train", "--resume", "run", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert f"checkpoint.dir is 'vault://me:{MARK}@box/kept'" in refused.stderr
    assert "its password is not stored: give it again with --set checkpoint.dir=URL, or where fsspec" in refused.stderr
    assert "no checkpoint" in here("status", "run", cwd=tmp_path).stdout

    given = here("train", "--resume", "run", "--set", f"checkpoint.dir={vault}", cwd=tmp_path)
    assert SECRET not in given.stdout + given.stderr + about.read_text()
    about.write_text(about.read_text().replace('"status": "finished"', '"status": "running"'))
    monkeypatch.setitem(conf, "vault", {"password": SECRET})  # as FSSPEC_VAULT_PASSWORD gives it
    assert "last checkpoint: step 10" in here("status", "run", cwd=tmp_path).stdout
    here("train", "--resume", "run", cwd=tmp_path)


@pytest.mark.parametrize("typed", [("render", "-o", "out"), ("--on", "slurm"), ("--on", "http://127.0.0.1:1")])
def test_no_password_goes_into_the_files_for_a_cluster(typed, vault, tmp_path):
    done = here("launch", *typed, "--set", f"checkpoint.dir={vault}", cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "whose password would appear in the files for the cluster; leave it out" in done.stderr
    assert SECRET not in done.stderr
    assert list(tmp_path.iterdir()) == []
