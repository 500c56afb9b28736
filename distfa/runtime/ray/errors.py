"""Ray's errors as distfa's: one table, most specific first, that gives each error its cause and its fix.

Rows have the names of Ray's classes, since not all versions of Ray have the same classes.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.exceptions import RayError, RayTaskError

from distfa.errors import ClusterError, DistfaError, LayerLost

_TEXT_CHARACTERS = 300
_PREAMBLE = re.compile(
    r"The actor is dead because its worker process has died\. Worker exit type: \w+ Worker exit detail: "
)
_SKIPPED = ("\t", "class_name:", "actor_id:", "pid:", "ip:", "namespace:", "name:", "Traceback")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The meaning of one kind of error.

    Attributes:
        name: Name of Ray's class.
        cause: What happened.
        fix: What to do about it.
        says: What the error's text must contain for the row to apply, in lower case; empty for any text.
        lost: Whether a layer's process is gone, so that it is a ``LayerLost``; else a ``ClusterError``.
    """

    name: str
    cause: str
    fix: str
    says: str = ""
    lost: bool = True

    def kind(self) -> type[BaseException] | None:
        """Ray's class; None where this version of Ray has none."""
        return getattr(ray.exceptions, self.name, None)

    def matches(self, error: BaseException) -> bool:
        kind = self.kind()
        return kind is not None and isinstance(error, kind) and self.says in str(error).lower()


_MEMORY = "give that node more memory, put fewer layers on it (ray.placement: spread), or make batch_size smaller"
_NODE_LOG = "check that node: 'ray status', and the logs in its /tmp/ray/session_latest/logs"
_NODE = f"it was shut down, disconnected from the network, or its Ray was stopped; {_NODE_LOG}"
_CRASH = f"look for the system's out-of-memory killer (dmesg) or a crash; {_NODE_LOG}"
_ENVIRONMENT = (
    "make sure that the packages and folders it names are available on every node; under 'uv run', "
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 uses each node's own environment as is"
)
_ROOM = "run 'ray status' to see what is available, and ask for less under ray.resources"
_STORE = "free memory on that node, or start its Ray with a larger --object-store-memory"
_REMOVED = "somebody removed the run's placement group or ended its cluster; start the run again"
_AGAIN = f"start the run again; if it happens again, {_NODE_LOG}"
_OURS = "this is a bug in distfa: please report it, with this message"

TABLE = (
    Row(name="NodeDiedError", cause="its node died", fix=_NODE),
    Row(name="LocalRayletDiedError", cause="Ray's agent on its node died", fix=_CRASH),
    Row(name="OutOfMemoryError", cause="Ray killed its process, because its node ran out of memory", fix=_MEMORY),
    Row(name="OutOfDiskError", cause="a disk of its node is full", fix="free space where Ray's temp-dir is (/tmp/ray)"),
    Row(name="ObjectStoreFullError", cause="Ray's object store cannot take the data set", fix=_STORE, lost=False),
    Row(name="RuntimeEnvSetupError", cause="Ray could not create its environment", fix=_ENVIRONMENT, lost=False),
    Row(
        name="AuthenticationError",
        cause="Ray refused this process's token, or it has none",
        fix="set RAY_AUTH_MODE=token, with the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN ('ray "
        "get-auth-token' prints it on the head node)",
        lost=False,
    ),
    Row(name="ActorUnschedulableError", cause="no node can take it", fix=_ROOM, lost=False),
    Row(name="TaskUnschedulableError", cause="no node can take it", fix=_ROOM, lost=False),
    Row(name="ActorPlacementGroupRemoved", cause="its place on the cluster was taken away", fix=_REMOVED),
    Row(name="TaskPlacementGroupRemoved", cause="its place on the cluster was taken away", fix=_REMOVED),
    Row(name="OwnerDiedError", cause="the process that held its data died", fix=_AGAIN),
    Row(name="ObjectFetchTimedOutError", cause="its data did not come from another node in time", fix=_NODE),
    Row(name="ObjectFreedError", cause="its data was freed too early", fix=_OURS),
    Row(name="ObjectReconstructionFailedError", cause="its data was lost with a node", fix=_NODE),
    Row(name="ReferenceCountingAssertionError", cause="its data was freed too early", fix=_OURS),
    Row(name="ObjectLostError", cause="its data was lost with a node", fix=_NODE),
    Row(name="ActorDiedError", says="node has died", cause="its node died", fix=_NODE),
    Row(name="ActorDiedError", says="node was terminated", cause="its node died", fix=_NODE),
    Row(
        name="ActorDiedError",
        says="low on memory",  # Ray's text on any death names memory as one cause of many
        cause="its process died (Ray killed it, because its node ran out of memory)",
        fix=_MEMORY,
    ),
    Row(name="ActorDiedError", says="creation task", cause="its process could not be created", fix=_AGAIN),
    Row(name="ActorDiedError", says="ray.kill", cause="its process was killed by ray.kill", fix="start the run again"),
    Row(name="ActorDiedError", cause="its process died", fix=_CRASH),
    Row(name="ActorUnavailableError", cause="its process cannot be reached", fix=_NODE),
    Row(name="RayActorError", cause="its process died", fix=_CRASH),
    Row(name="WorkerCrashedError", cause="its process died", fix=_CRASH),
    Row(name="TaskCancelledError", cause="its work was cancelled through Ray", fix="start the run again"),
    Row(name="GetTimeoutError", cause="Ray gave no answer in time", fix=_NODE_LOG),
    Row(name="PendingCallsLimitExceeded", cause="too many requests are waiting for an answer", fix=_OURS),
    Row(name="ActorAlreadyExistsError", cause="another actor has its name", fix=_OURS, lost=False),
    Row(name="ActorHandleNotFoundError", cause="its actor belongs to another Ray session", fix=_OURS, lost=False),
    Row(name="AsyncioActorExit", cause="its process exited on its own", fix=_OURS),
    Row(name="ObjectRefStreamEndOfStreamError", cause="a stream of results ended", fix=_OURS),
    Row(name="OufOfBandObjectRefSerializationException", cause="a reference was sent as data", fix=_OURS),
    Row(name="PlasmaObjectNotAvailable", cause="its data is not in Ray's object store", fix=_AGAIN),
    Row(name="CrossLanguageError", cause="an actor in another language failed", fix=_OURS),
    Row(
        name="UnserializableException",
        cause="it raised an error that cannot be sent",
        fix="check that node's log for the error itself",
    ),
    Row(name="UserCodeException", cause="the code it was given failed", fix="check that node's log"),
    Row(
        name="RayTaskError",
        says="modulenotfounderror",
        cause="a module the run needs is not installed on its node",
        fix="install it on every node, or ship it with 'ray job submit --working-dir'",
        lost=False,
    ),
    Row(name="RayTaskError", cause="it failed", fix=_OURS),
    Row(name="RpcError", cause="a call within Ray failed", fix=_NODE, lost=False),
    Row(name="RayChannelTimeoutError", cause="Ray gave no answer in time", fix=_NODE_LOG),
    Row(name="RayChannelError", cause="a channel within Ray failed", fix=_AGAIN),
    Row(name="RayCgraphCapacityExceeded", cause="a queue within Ray is full", fix=_AGAIN),
    Row(name="RayDirectTransportError", cause="a transfer within Ray failed", fix=_AGAIN),
    Row(
        name="StreamingGeneratorReplayInconsistentError", cause="Ray repeated work with a different outcome", fix=_AGAIN
    ),
    Row(name="RaySystemError", cause="Ray itself failed", fix=_AGAIN, lost=False),
    Row(
        name="RayError", cause="Ray reports an error that this version of distfa does not know", fix=_AGAIN, lost=False
    ),
)


def translate(error: BaseException) -> BaseException:
    """Ray's error as one of distfa's; an error that a worker raised, or that is not Ray's, is passed on as it is."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if isinstance(cause, DistfaError):
        return cause
    if isinstance(cause, RayError):
        return translate(cause)
    row = next((row for row in TABLE if row.matches(error)), None)
    if row is None:
        return error
    made = (LayerLost if row.lost else ClusterError)(f"{row.cause} ({describe_error(error)}); {row.fix}")
    made.__cause__ = error
    return made


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise Ray's errors as distfa's."""
    try:
        yield
    except RayError as exc:
        raise translate(exc) from exc


def describe_error(error: BaseException) -> str:
    """An error's text in one line, without Ray's lists of ids and without a traceback."""
    cause = getattr(error, "cause", None) if isinstance(error, RayTaskError) else None
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {describe_error(cause)}"
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith(_SKIPPED)]
    if not lines:
        return type(error).__name__
    said = lines[0].strip()
    if said.startswith("The actor died unexpectedly") and len(lines) > 1:  # Ray's own text comes before the reason
        said = lines[1].strip()
    said = _PREAMBLE.sub("", said.partition(" Some common causes include")[0])
    return said[:_TEXT_CHARACTERS].rstrip(".: ")
