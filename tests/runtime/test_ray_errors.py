"""Every error of Ray has a row of its own, with its cause and its fix; the most specific row counts."""

import inspect

import pytest
from ray import exceptions
from ray.core.generated.common_pb2 import ActorDiedErrorContext

from distfa.errors import ClusterError, LayerLost, NonFiniteError
from distfa.runtime.ray.errors import TABLE, describe_error, translate, translate_errors

KINDS = {
    name: kind
    for name, kind in vars(exceptions).items()
    if inspect.isclass(kind) and issubclass(kind, exceptions.RayError)
}


def test_every_error_of_ray_has_a_row_by_its_own_name():
    """A class that a new version of Ray brings fails here, rather than as one that distfa does not know."""
    assert KINDS.keys() - {row.name for row in TABLE} == set()


def test_the_most_specific_row_comes_first():
    for i, row in enumerate(TABLE):
        for later in TABLE[i + 1 :]:
            if row.kind() is None or later.kind() is None:
                continue
            shadowed = issubclass(later.kind(), row.kind()) and row.says in later.says
            assert not shadowed, f"{later.name} ({later.says!r}) never gets past {row.name} ({row.says!r})"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_error_becomes_ours_with_cause_and_fix(name):
    row = next(row for row in TABLE if row.kind() is KINDS[name] and not row.says)
    with_text = type("Told", (KINDS[name],), {"__str__": lambda self: "for a test", "__init__": lambda self: None})()
    ours = translate(with_text)
    assert type(ours) is (LayerLost if row.lost else ClusterError)
    assert str(ours) == f"{row.cause} (for a test); {row.fix}"
    assert ours.__cause__ is with_text


def died(message):
    return exceptions.ActorDiedError(
        ActorDiedErrorContext(class_name="WorkerHost", actor_id=b"0" * 16, pid=7, error_message=message)
    )


LONG = "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("The actor is dead because its node has died. Node Id: 00ff", "its node died"),
        (
            "The actor was killed due to the node running low on memory.",
            "Ray killed it, because its node ran out of memory",
        ),
        (
            f"{LONG}Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: "
            "(1) the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called",
            "its process died (Worker unexpectedly exits with a connection error code 2. End of file)",
        ),
        ("Worker unexpectedly exits with a connection error code 2. End of file.", "its process died (Worker unexp"),
    ],
)
def test_a_dead_actor_is_told_by_the_reason_ray_gives(message, cause):
    ours = str(translate(died(message)))
    assert ours.startswith(cause) or cause in ours
    assert message.removeprefix(LONG).split(".")[0] in ours
    assert "actor_id" not in ours


def test_an_error_of_a_layers_own_passes_through():
    own = NonFiniteError("layer 2, step 7: the loss is nan")
    assert translate(exceptions.RayTaskError("run", "traceback", own)) is own
    assert (
        translate(exceptions.RayTaskError("run", "traceback", KINDS["OutOfDiskError"]())).args[0].startswith("a disk")
    )


def test_a_fault_of_distfas_own_is_to_be_reported_and_only_that():
    ours = str(translate(exceptions.RayTaskError("run", "traceback", IndexError("list index out of range"))))
    assert "IndexError: list index out of range" in ours
    assert "please report it" in ours
    for row in TABLE:
        if row.name in (
            "NodeDiedError",
            "OutOfMemoryError",
            "RuntimeEnvSetupError",
            "GetTimeoutError",
            "RaySystemError",
        ):
            assert "report it" not in row.fix


def test_what_is_not_rays_is_left_alone():
    error = ValueError("other")
    assert translate(error) is error
    with pytest.raises(ValueError, match="other"), translate_errors():
        raise error


def test_long_texts_and_empty_ones_are_told_in_a_line():
    assert describe_error(exceptions.RaySystemError("x" * 1000)).startswith("System error: xxx")
    assert len(describe_error(exceptions.RaySystemError("x" * 1000))) <= 300
    assert describe_error(ValueError()) == "ValueError"
