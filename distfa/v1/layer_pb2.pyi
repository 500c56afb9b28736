from distfa.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    KIND_UNSPECIFIED: _ClassVar[Kind]
    KIND_ACTIVATION: _ClassVar[Kind]
    KIND_ERROR: _ClassVar[Kind]
    KIND_EVALUATION: _ClassVar[Kind]
    KIND_PROBE: _ClassVar[Kind]
    KIND_STRAIGHT: _ClassVar[Kind]
    KIND_RENEWAL: _ClassVar[Kind]
    KIND_TALLY: _ClassVar[Kind]
    KIND_VERDICT: _ClassVar[Kind]
    KIND_GRADIENT: _ClassVar[Kind]
    KIND_FIGURES: _ClassVar[Kind]
KIND_UNSPECIFIED: Kind
KIND_ACTIVATION: Kind
KIND_ERROR: Kind
KIND_EVALUATION: Kind
KIND_PROBE: Kind
KIND_STRAIGHT: Kind
KIND_RENEWAL: Kind
KIND_TALLY: Kind
KIND_VERDICT: Kind
KIND_GRADIENT: Kind
KIND_FIGURES: Kind

class Identity(_message.Message):
    __slots__ = ("run_id", "boundary", "kind", "sender", "step", "micro_batch", "replica")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    MICRO_BATCH_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    boundary: int
    kind: Kind
    sender: int
    step: int
    micro_batch: int
    replica: int
    def __init__(self, run_id: _Optional[str] = ..., boundary: _Optional[int] = ..., kind: _Optional[_Union[Kind, str]] = ..., sender: _Optional[int] = ..., step: _Optional[int] = ..., micro_batch: _Optional[int] = ..., replica: _Optional[int] = ...) -> None: ...

class PushRequest(_message.Message):
    __slots__ = ("identity", "tensor")
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    identity: Identity
    tensor: _tensor_pb2.Tensor
    def __init__(self, identity: _Optional[_Union[Identity, _Mapping]] = ..., tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class PushResponse(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: int
    def __init__(self, messages: _Optional[int] = ...) -> None: ...
