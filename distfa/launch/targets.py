"""Targets with tools that stay in the foreground: commands to start, follow and stop, in this order."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distfa.errors import ClusterError, Interrupted, UsageError
from distfa.launch import tools
from distfa.launch.tools import Command
from distfa.measuring.subprocesses import delay_interrupts
from distfa.settings.launch import LaunchConfig
from distfa.text.words import pluralize

NAMES = ("local", "docker", "kuberay", "slurm", "ray-up")
"""Beside them: a Ray cluster's address, and its dashboard's."""

TOKEN_PLACE = Path("~/.ray/auth_token")
_OWNER_ONLY = stat.S_IRUSR | stat.S_IWUSR


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The commands of a target.

    Attributes:
        tool: The tool that must be installed.
        source: How to get it.
        start: Commands that are run first, each to its end.
        follow: A command that runs as long as the run does; its exit code is that of the run.
        stop: Commands that are run at the end, whatever happened.
        token: Whether the tool reads a token for Ray, made for this run alone, from RAY_AUTH_TOKEN.
        kept_token: Whether the tool copies the file of Ray's token to its machines.
    """

    tool: str
    source: str
    start: tuple[Command, ...] = ()
    follow: Command
    stop: tuple[Command, ...]
    token: bool = False
    kept_token: bool = False


def list_commands(target: str, folder: Path, launch: LaunchConfig) -> Commands:
    """The commands of a target for the files rendered into ``folder``."""
    return {"docker": _docker, "kuberay": _kuberay, "ray-up": _ray_up}[target](folder, launch)


def carry_out(found: Commands, say: Callable[[str], None]) -> None:
    """Start, follow, and stop in any case.

    Raises:
        UsageError: The tool is missing.
        ClusterError: A command failed.
        Interrupted: Ctrl-C was pressed; everything has been stopped.
    """
    tools.require_tool(found.tool, found.source)
    if found.kept_token:
        require_token(say)
    environment = {**({"RAY_AUTH_TOKEN": secrets.token_hex(32)} if found.token else {}), **os.environ}
    try:
        for command in found.start:
            say(" ".join(command))
            if code := tools.follow(command, environment):
                raise ClusterError(f"'{' '.join(command)}' failed with exit code {code}; see its output above")
        say(" ".join(found.follow))
        if code := tools.follow(found.follow, environment):
            raise ClusterError(f"the run ended with exit code {code}; see its output above")
    except KeyboardInterrupt as exc:
        raise Interrupted("interrupted; stopped everything that was started") from exc
    finally:
        with delay_interrupts():
            for command in found.stop:
                say(" ".join(command))
                tools.follow(command, environment)


def require_token(say: Callable[[str], None]) -> Path:
    """The file of the token that Ray's processes on several machines share: for its owner only, and never printed.

    It is made if there is none, and closed to others if it is open.

    Args:
        say: Called with what was done, in words, without the token.

    Raises:
        UsageError: It cannot be written.
    """
    path = TOKEN_PLACE.expanduser()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY)
        except FileExistsError:
            if stat.S_IMODE(path.stat().st_mode) & ~_OWNER_ONLY:
                path.chmod(_OWNER_ONLY)
                say(f"{path} could be read by others; now only its owner can read it")
            return path
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, _OWNER_ONLY)  # whatever the process's mask
            file.write(secrets.token_hex(32))
    except OSError as exc:
        raise UsageError(f"cannot store Ray's token in {path}: {exc.strerror}; make that file writable") from exc
    say(f"a new token for Ray is in {path}, which only its owner can read")
    return path


def _docker(folder: Path, launch: LaunchConfig) -> Commands:
    compose = ("docker", "compose", "--file", str(folder / "docker/compose.yaml"))
    return Commands(
        tool="docker",
        source="install Docker with its compose plugin",
        token=True,
        follow=(*compose, "up", "--exit-code-from", "head"),
        stop=((*compose, "down", "--remove-orphans"),),
    )


def _kuberay(folder: Path, launch: LaunchConfig) -> Commands:
    job = f"rayjob{'-gpu' if launch.gpus else ''}"
    name = f"distfa{'-gpu' if launch.gpus else ''}"
    deadline = f"--timeout={launch.wait_seconds:.0f}s"
    within = (f"--namespace={launch.kubernetes.namespace}",) if launch.kubernetes.namespace else ()
    kubectl = " ".join(("kubectl", *within))
    return Commands(
        tool="kubectl",
        source="install it, and point it at a cluster with the KubeRay operator",
        start=(
            ("kubectl", *within, "apply", "--filename", str(folder / f"kuberay/{job}.yaml")),
            ("kubectl", *within, "wait", f"rayjob/{name}", "--for=jsonpath={.status.jobStatus}=RUNNING", deadline),
        ),
        follow=(
            "sh",
            "-c",
            f"{kubectl} logs --follow job/{name} && {kubectl} wait rayjob/{name} "
            "--for=jsonpath='{.status.jobStatus}'=SUCCEEDED --timeout=60s",
        ),
        stop=(("kubectl", *within, "delete", f"rayjob/{name}", f"configmap/{name}-spec", "--ignore-not-found"),),
    )


def _ray_up(folder: Path, launch: LaunchConfig) -> Commands:
    cluster = str(folder / f"ray-up/{launch.cloud.provider or 'local'}.yaml")
    return Commands(
        tool="ray",
        source="pip install 'ray[default]'",
        kept_token=True,
        start=(("ray", "up", "--yes", cluster),),
        follow=("ray", "exec", cluster, "distfa launch ~/spec.yaml --on auto"),
        stop=(("ray", "down", "--yes", cluster),),
    )


def name_machines(launch: LaunchConfig) -> str:
    """For ``ray-up``: the machines that would be used or started, in words."""
    cloud, nodes = launch.cloud, launch.nodes
    if cloud.provider is None:
        return f"{', '.join(launch.hosts)}, by ssh as {launch.ssh_user}"
    where = " ".join(each for each in (cloud.project, cloud.zone or cloud.region) if each)
    return (
        f"{nodes} x {cloud.machine} on {cloud.provider} in {where}: the head and {pluralize(nodes - 1, 'worker')}; the "
        "cloud charges for them until 'ray down' has ended"
    )


_NEEDED = {"aws": ("machine", "region"), "gcp": ("machine", "region", "zone", "project")}


def require_machines(launch: LaunchConfig) -> None:
    """For ``ray-up``: start nothing on the names that stand in the file until it is filled in.

    Raises:
        UsageError: A machine or the user of ssh is not named, or distfa's source is not here.
    """
    if (provider := launch.cloud.provider) is not None:
        missing = [f"launch.cloud.{key}" for key in _NEEDED[provider] if not getattr(launch.cloud, key)]
        missing += [] if launch.image else ["launch.image"]
        if missing:
            raise UsageError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, so 'ray up' would get "
                f"placeholders from ray-up/{provider}.yaml; nothing was started: set them in the spec or with --set"
            )
        return
    missing = [f"launch.{key}" for key in ("hosts", "ssh_user") if not getattr(launch, key)]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, so 'ray up' would get the "
            "placeholders HEAD, NODE1, ... and USER from ray-up/local.yaml; name the machines, the head first: "
            "--set launch.hosts=[10.0.0.1,10.0.0.2] --set launch.ssh_user=NAME"
        )
    if len(launch.hosts) != launch.nodes:
        raise UsageError(
            f"launch.hosts names {len(launch.hosts)} machines ({', '.join(launch.hosts)}), but launch.nodes is "
            f"{launch.nodes}; make them agree"
        )
    if not Path("constraints.txt").is_file() or not Path("distfa").is_dir():
        raise UsageError(
            "'ray up' copies distfa's source to the machines, but it is not here; run this in the source folder"
        )
