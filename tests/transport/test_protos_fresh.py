"""The committed generated code says what the .proto files say, and every one of their parts is explained."""

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from distfa.v1 import layer_pb2, tensor_pb2

PROTOS = Path(__file__).parents[2] / "protos"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Name -> FileDescriptorProto, with comments."""
    out = tmp_path_factory.mktemp("protos") / "set"
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"--descriptor_set_out={out}", "--include_source_info", *files]
    assert protoc.main(arguments) == 0
    return {f.name: f for f in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file}


@pytest.mark.parametrize("module", [layer_pb2, tensor_pb2])
def test_generated_code_is_fresh(compiled, module):
    committed, fresh = descriptor_pb2.FileDescriptorProto(), descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(committed)
    fresh.CopyFrom(compiled[committed.name])
    fresh.ClearField("source_code_info")
    for file in (committed, fresh):
        for message in file.message_type:
            for field in message.field:
                field.ClearField("json_name")
    assert committed == fresh, "protos/ changed: run scripts/protos"


def test_every_proto_has_generated_code(compiled):
    assert set(compiled) == {module.DESCRIPTOR.name for module in (layer_pb2, tensor_pb2)}


def test_every_message_field_enum_value_and_rpc_has_a_comment(compiled):
    bare = []
    for name, file in compiled.items():
        commented = {tuple(l.path) for l in file.source_code_info.location if l.leading_comments.strip()}
        parts = {}
        for i, message in enumerate(file.message_type):
            parts[4, i] = message.name
            parts |= {(4, i, 2, j): f"{message.name}.{field.name}" for j, field in enumerate(message.field)}
        for i, enum in enumerate(file.enum_type):
            parts[5, i] = enum.name
            parts |= {(5, i, 2, j): value.name for j, value in enumerate(enum.value)}
        for i, service in enumerate(file.service):
            parts[6, i] = service.name
            parts |= {(6, i, 2, j): method.name for j, method in enumerate(service.method)}
        bare += [f"{name}: {part}" for path, part in parts.items() if path not in commented]
    assert bare == []
