"""The time a machine needs for a product, a pass over memory, a message: measured once, or typical figures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from distfa.costs.arithmetic import Effort, Product
from distfa.errors import PlanError
from distfa.files import save_whole
from distfa.plan.cluster import NodeGroup


class _Slowable:
    """Figures that are all processor time."""

    def slow_down(self, factor: float) -> Self:
        """The same figures, with everything slower by a factor."""
        return type(self)(**{name: seconds * factor for name, seconds in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class MessageCost(_Slowable):
    """Processor seconds for one message at one place: a part per message and a part per byte."""

    seconds: float
    seconds_per_byte: float

    def of(self, size_bytes: float) -> float:
        """Seconds for a message of this size."""
        return self.seconds + self.seconds_per_byte * size_bytes


@dataclass(frozen=True, kw_only=True)
class CodecCost(_Slowable):
    """Seconds per number to write a signal, and to read it."""

    encode: float
    decode: float


_PLACES = ("send", "receive", "carry")
_TYPICAL_CODECS = {
    "fp32": CodecCost(encode=0.0, decode=2e-10),
    "fp64": CodecCost(encode=0.0, decode=4e-10),
    "bf16": CodecCost(encode=2e-10, decode=3e-10),
    "int8": CodecCost(encode=2e-9, decode=7e-10),
}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Figures of one machine; the defaults are those of a server core with AVX2.

    Attributes:
        flops_per_second: Of one core, for products whose shape was not measured.
        products: (rows, inner, columns, seconds) of measured products.
        memory_bytes_per_second: Of one core, in passes over signals.
        update_bytes_per_second: Of one core, in the optimizer's pass over all it reads and writes.
        call_seconds: Time of one tensor operation, whatever its size.
        update_seconds: Time of one step of an optimizer, whatever its size.
        draw_seconds: Time to draw one number (brsf).
        send: Cost in the thread of the sending layer.
        receive: Cost in the thread of the receiving layer.
        carry: Cost in the wire's threads, at each end.
        wake_seconds: How long a message waits at each end for a thread of the wire to get a core, if all are taken.
        codecs: Costs by the codec's name; a codec that is missing costs as much as the most expensive one.
        process_bytes: Memory of a layer's process before it holds anything: Python, torch, Ray, gRPC.
        dtype: The dtype of the measured products.
        run_factor: Processor time of a real run divided by that of its parts measured one by one; all figures include
            it.
        machine: The machine it was measured on.
    """

    flops_per_second: float = 60e9
    products: tuple[tuple[int, int, int, float], ...] = ()
    memory_bytes_per_second: float = 30e9
    update_bytes_per_second: float = 40e9
    call_seconds: float = 8e-6
    update_seconds: float = 300e-6
    draw_seconds: float = 15e-9
    send: MessageCost = MessageCost(seconds=70e-6, seconds_per_byte=0.2e-9)
    receive: MessageCost = MessageCost(seconds=70e-6, seconds_per_byte=0.1e-9)
    carry: MessageCost = MessageCost(seconds=110e-6, seconds_per_byte=0.5e-9)
    wake_seconds: float = 1.7e-3
    codecs: Mapping[str, CodecCost] = field(default_factory=lambda: dict(_TYPICAL_CODECS))
    process_bytes: int = 270 * 2**20
    dtype: str = "float32"
    run_factor: float = 1.0
    machine: Mapping[str, Any] = field(default_factory=dict)

    def codec(self, name: str) -> CodecCost:
        """The cost of a codec."""
        return self.codecs.get(name) or max(self.codecs.values(), key=lambda cost: cost.encode + cost.decode)

    def product_seconds(self, product: Product) -> float:
        """Seconds on one core: measured for this shape, else at the rate of the most similar measured shape."""
        if (known := self._by_shape.get(product.shape)) is not None:
            return known
        if not self._by_shape:
            return product.flops / self.flops_per_second
        nearest = min(
            self._by_shape,
            key=lambda other: sum(abs(math.log(a / b)) for a, b in zip(product.shape, other, strict=True)),
        )
        return self._by_shape[nearest] * product.flops / Product(*nearest).flops

    def slow_down(self, factor: float) -> Calibration:
        """The calibration with ``factor`` times as long for everything that takes processor time."""
        rates = ("flops_per_second", "memory_bytes_per_second", "update_bytes_per_second")
        times = ("call_seconds", "update_seconds", "draw_seconds")
        return replace(
            self,
            products=tuple((m, k, n, seconds * factor) for m, k, n, seconds in self.products),
            codecs={name: cost.slow_down(factor) for name, cost in self.codecs.items()},
            **{name: getattr(self, name) / factor for name in rates},
            **{name: getattr(self, name) * factor for name in times},
            **{name: getattr(self, name).slow_down(factor) for name in _PLACES},
        )

    @cached_property
    def _by_shape(self) -> dict[tuple[int, int, int], float]:
        return {(rows, inner, columns): seconds for rows, inner, columns, seconds in self.products}

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all.

        Raises:
            PlanError: It cannot be written.
        """
        text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
        save_whole(path, text, PlanError, "choose another location")

    @staticmethod
    def load(path: Path) -> Calibration:
        """Read what ``save`` wrote.

        Raises:
            PlanError: The file does not exist, or is not a calibration.
        """
        try:
            raw = json.loads(path.read_text())
            unknown = set(raw) - {f.name for f in fields(Calibration)}
            if unknown:
                raise ValueError(f"unknown key {min(unknown)!r}")
            for place in _PLACES:
                raw[place] = MessageCost(**raw[place])
            raw["codecs"] = {name: CodecCost(**cost) for name, cost in raw["codecs"].items()}
            raw["products"] = tuple((int(m), int(k), int(n), float(s)) for m, k, n, s in raw["products"])
            return Calibration(**raw)
        except OSError as exc:
            raise PlanError(
                f"cannot read the calibration {path}: {exc.strerror}; make one with 'distfa plan --calibrate {path}'"
            ) from exc
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise PlanError(
                f"{path} is not a calibration: {exc}; make one with 'distfa plan --calibrate {path}'"
            ) from exc


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How long a layer's work takes on one kind of node."""

    calibration: Calibration
    node: NodeGroup
    number_bytes: int

    def seconds(self, effort: Effort) -> float:
        """Seconds for a whole effort on one core (for products on one device, if the node has any)."""
        own, c = self.node.memory_bytes_per_second, self.calibration
        passes = effort.passed_bytes / (c.memory_bytes_per_second if own == "calibrated" else own)
        update = effort.updated_bytes / (c.update_bytes_per_second if own == "calibrated" else own)
        rate = self.node.flops_per_second
        products = sum(self._product(product) for product in effort.products)
        products += effort.counted_flops / (c.flops_per_second if rate == "calibrated" else rate)
        fixed = effort.calls * c.call_seconds + effort.updates * c.update_seconds + effort.drawn * c.draw_seconds
        return products + passes + update + fixed

    def _product(self, product: Product) -> float:
        """The measured time; else that of its arithmetic or of its memory, whichever is longer."""
        rate, memory = self.node.flops_per_second, self.node.memory_bytes_per_second
        if rate == "calibrated":
            return self.calibration.product_seconds(product)
        memory = self.calibration.memory_bytes_per_second if memory == "calibrated" else memory
        return max(product.flops / rate, product.numbers * self.number_bytes / memory)
