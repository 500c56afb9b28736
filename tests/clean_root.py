"""The steps of a Dockerfile in a clean root: Debian by debootstrap, entered by chroot in namespaces of its own.

It stands in for the image that the Dockerfile begins with, python:3.11-slim-bookworm: the same Debian, with Debian's
own Python 3.11. What it cannot show is Docker itself: layers, its network, its default limits.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

FROM = "python:3.11-slim-bookworm"
_SEEN = ("/etc/resolv.conf", "/etc/hosts")  # of this machine
_TOOLS = ("debootstrap", "chroot", "unshare")


def why_not() -> str | None:
    """Why there can be no clean root here; None if there can."""
    if missing := [name for name in _TOOLS if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]:
        return f"{', '.join(missing)} not installed (Debian: apt install debootstrap)"
    return None if os.geteuid() == 0 else "this needs root"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(name, the rest) of every instruction, its lines joined."""
    lines = [line for line in dockerfile.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines)).splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)]


class CleanRoot:
    """A root file system, empty but for Debian; a context manager that removes it.

    Args:
        context: The folder that COPY takes from.
        arguments: Values of ARG.
    """

    def __init__(self, context: Path, arguments: dict[str, str]) -> None:
        self._context, self._arguments = context, arguments
        self._root = Path(tempfile.mkdtemp(prefix="clean", dir="/var/tmp"))
        self._root.chmod(0o755)  # other users are to get in
        self._user, self._folder, self._environment = "0", "/", {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"}

    def __enter__(self) -> CleanRoot:
        include = "--include=python3,python3-pip,ca-certificates"
        try:
            _run(["debootstrap", "--variant=minbase", include, "bookworm", str(self._root)], seconds=900)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        shutil.rmtree(self._root, ignore_errors=True)  # what was mounted there was so in namespaces that have ended

    def follow(self, name: str, rest: str) -> str:
        """Do one instruction; what it printed."""
        if name == "FROM":
            assert rest == FROM, f"the clean root is {FROM}, the Dockerfile begins with {rest}"
        elif name == "ARG":
            key, _, default = rest.partition("=")
            self._environment[key] = self._arguments.get(key, default.strip('"'))
        elif name == "ENV":
            self._environment |= dict(word.split("=", 1) for word in shlex.split(rest))
        elif name == "USER":
            self._user = rest
        elif name == "WORKDIR":
            self._folder = rest
            self._inside(rest).mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            self._copy(*rest.split())
        elif name == "RUN":
            return self.run(rest)
        else:
            assert name == "CMD", f"the clean root does not know {name}"
        return ""

    def run(self, command: str, *, seconds: float = 1500) -> str:
        """A shell command as the image would run it, with an empty /dev/shm and processes of its own."""
        binds = [path for path in (*_SEEN, *_of_pip()) if Path(path).exists()]
        for path in binds:
            inside = self._inside(path)
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.mkdir(exist_ok=True) if Path(path).is_dir() else inside.touch()
        mounts = [f"mount --bind {path} {self._inside(path)}" for path in binds]
        mounts += [f"mount --rbind /dev {self._root}/dev", f"mount -t tmpfs none {self._root}/dev/shm"]
        mounts += [f"mount -t proc proc {self._root}/proc", f"mount -t tmpfs none {self._root}/tmp"]
        words = [f"{key}={value}" for key, value in {**_passed_on(), **self._environment}.items()]
        home = "/root" if self._user == "0" else self._folder
        chroot = ["chroot", f"--userspec={self._user}:{self._user}", str(self._root), "/usr/bin/env", "-i", *words]
        inside = [*chroot, f"HOME={home}", "/bin/sh", "-c", f"cd {self._folder} && {command}"]
        script = " && ".join(
            [*mounts, f"chmod 1777 {self._root}/dev/shm {self._root}/tmp", f"exec {shlex.join(inside)}"]
        )
        return _run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script], seconds=seconds)

    def _inside(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _copy(self, *words: str) -> None:
        *sources, target = words
        folder = self._inside(str(Path(self._folder) / target))
        for source in sources:
            found = self._context / source
            if found.is_dir():
                shutil.copytree(found, folder, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(found, folder)


def _passed_on() -> dict[str, str]:
    """How this machine reaches the network and its package index; Debian lets pip install there only if told to."""
    own = {key: value for key, value in os.environ.items() if re.match(r"PIP_|.*_proxy$|SSL_CERT", key, re.IGNORECASE)}
    return {**own, "PIP_BREAK_SYSTEM_PACKAGES": "1"}


def _of_pip() -> list[str]:
    """Files and folders of this machine that its pip reads; an index of files with what lies beside it."""
    told = subprocess.run(["pip", "config", "debug"], capture_output=True, text=True, check=True).stdout
    told += " ".join(_passed_on().values())
    named = {str(Path(path).parent) for path in re.findall(r"file://(/[^\s'\",]+)", told)}
    named |= set(re.findall(r"(?<![\w/:])/[^\s'\",:]+", told))
    return sorted(path for path in named if path != "/" and Path(path).exists())


def _run(command: list[str], *, seconds: float) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout[-6000:]}"
    return done.stdout
