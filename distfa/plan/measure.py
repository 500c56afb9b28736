"""Times the parts of a run on this machine, one by one: products, passes, codecs and messages in the run's shapes.

Times are processor seconds of the thread that does the work, so other processes on the machine disturb them little. But
as many layers as the run has must be at work at the same time: they share caches, memory and clock rate.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distfa.codecs import CODECS, resolve
from distfa.core import rules
from distfa.core.base import optim
from distfa.core.base.activations import Activation
from distfa.core.base.draw import Purpose, matrix
from distfa.core.base.model import plain_network
from distfa.core.base.recipe import FeedbackConfig, Recipe
from distfa.core.base.threads import use_threads
from distfa.core.layer import Layer
from distfa.costs import arithmetic, counted
from distfa.costs.arithmetic import Product
from distfa.measuring.machine import bare_layer_bytes
from distfa.plan.background import layers_at_once, layers_at_work
from distfa.plan.calibration import Calibration, CodecCost, MessageCost, Speed
from distfa.plan.cluster import NodeGroup
from distfa.runtime.job import Job
from distfa.transport.base import WireConfig
from distfa.transport.grpc_transport import GrpcTransport
from distfa.transport.inbox import Inbox
from distfa.transport.message import Direction, Kind, Link
from distfa.transport.port import InPort, OutPort

_SECONDS_EACH = 0.25
_LEAST_RUNS = 5
_CACHE_BYTES = 64 * 2**20
_MOST_COPIES = 200
_COLD_RUNS = 25
_UPDATED = 4  # optimizers go round this many weights
_MESSAGES = 200
_LARGE_COLUMNS = 1024
_LARGE_ROWS = 256


def parts(job: Job, modules: Mapping[int, nn.Module], machine: dict[str, object]) -> Calibration:
    """Measure this machine for the shapes of a job, while it is as busy as in a run; takes about half a minute.

    Args:
        job: Gives the shapes, the optimizer and the codecs.
        modules: The modules of every layer, if they are not drawn from the seed.
        machine: What the machine is, for the file.
    """
    recipe = job.recipe
    rows, width = -(-recipe.batch_size // recipe.micro_batches), max(recipe.network.sizes[1:])
    if modules:
        width = min(width, _LARGE_COLUMNS)  # a feature map is wide; a Linear of that width would be far too heavy
    others = layers_at_once(len(recipe.network)) - 1
    with use_threads(), layers_at_work(others, rows=rows, width=width, dtype=recipe.signal_dtype):
        found = _measure(job, machine)
        return replace(found, flops_per_second=_measure_rate(job.recipe, modules, found)) if modules else found


def _measure(job: Job, machine: dict[str, object]) -> Calibration:
    products = _products(job) if job.recipe.network.seeded else ()
    send, receive, carry = _messages(job)
    call, update = _time_fixed_costs(job)
    return Calibration(
        flops_per_second=statistics.median([Product(m, k, n).flops / s for m, k, n, s in products] or [1.0]),
        products=products,
        memory_bytes_per_second=_memory(),
        update_bytes_per_second=_update(job),
        call_seconds=call,
        update_seconds=update,
        draw_seconds=_draw(),
        send=send,
        receive=receive,
        carry=carry,
        codecs={name: _codec(name) for name in CODECS},
        process_bytes=bare_layer_bytes(),
        dtype=str(job.recipe.signal_dtype).removeprefix("torch."),
        machine=machine,
    )


def _seconds(work: Callable[..., object], *operands: Tensor) -> float:
    """Median processor seconds of one call whose operands are not in the processor's cache.

    A layer reads its matrices from memory after others have run, so calls go round many copies of them.
    """
    copies = 1 + _CACHE_BYTES // max(1, sum(operand.nbytes for operand in operands)) if operands else 1
    sets = [tuple(operand.clone() for operand in operands) for _ in range(min(copies, _MOST_COPIES))]
    times: list[float] = []
    for each in itertools.cycle(sets):
        began = time.thread_time()
        work(*each)
        times.append(time.thread_time() - began)
        if len(times) > len(sets) + _LEAST_RUNS and sum(times) > _SECONDS_EACH:
            break
    return statistics.median(times[len(sets) :])


def _products(job: Job) -> tuple[tuple[int, int, int, float], ...]:
    """Every product of the run and of its baseline; those of gradients add to existing numbers, as in layers."""
    recipe = replace(job.recipe, batch_size=-(-job.recipe.batch_size // job.recipe.micro_batches))
    made = [*counted.step(recipe), *counted.step(replace(recipe, rule=rules.BASELINE, feedback=FeedbackConfig()))]
    ordered = sorted({product for layer in made for product in layer}, key=lambda product: product.kind == "gradient")
    timed = {product.shape: _product(product, recipe.signal_dtype) for product in ordered}
    return tuple((*shape, seconds) for shape, seconds in sorted(timed.items()))


def _product(product: Product, dtype: torch.dtype) -> float:
    left, right = product.factors(dtype)
    if product.kind == "gradient":
        return _seconds(
            lambda g, a, b: g.addmm_(a, b), torch.zeros(product.rows, product.columns, dtype=dtype), left, right
        )
    return _seconds(torch.mm, left, right)


def _measure_rate(recipe: Recipe, modules: Mapping[int, nn.Module], known: Calibration) -> float:
    """FLOPs per second of the products in a network of any modules: forward, backward pass and gradient of every layer.

    The time of passes over memory and of calls is subtracted, but no more than half.
    """
    rows = -(-recipe.batch_size // recipe.micro_batches)
    plain = recipe.without_books()
    speed = Speed(calibration=known, node=NodeGroup(), number_bytes=recipe.signal_dtype.itemsize)
    flops, seconds = 0, 0.0
    for number, work in enumerate(counted.works(plain, modules), start=1):
        layer = Layer(plain, number, module=modules[number])
        tokens = recipe.network.tokens and number == 1
        shape = (rows, *layer.spec.input_shape)
        x = torch.zeros(shape, dtype=torch.int64) if tokens else torch.randn(shape)
        s = torch.randn(rows, *layer.spec.output_shape).to(recipe.signal_dtype)

        def once(layer: Layer = layer, x: Tensor = x, s: Tensor = s) -> None:
            layer.forward(x, (0, 0))
            for boundary in layer.sends_to:
                layer.emit(boundary, s, (0, 0))
            layer.accumulate(s, (0, 0))

        effort = sum((work.emit(b, rows) for b in layer.sends_to), work.forward(rows) + work.accumulate(rows))
        taken = _seconds(once)
        other = speed.seconds(replace(effort, counted_flops=0))
        flops, seconds = flops + effort.counted_flops, seconds + max(taken - other, taken / 2)
    return flops / seconds


def _memory() -> float:
    signal = torch.randn(_LARGE_ROWS, _LARGE_COLUMNS)
    return 2 * signal.nbytes / _seconds(torch.relu, signal)


def _update(job: Job) -> float:
    """Bytes per second of the run's optimizer on its largest layer."""
    recipe = job.recipe
    numbers = max(layer.trainable for layer in recipe.network.layers)
    weights = [torch.randn(numbers, dtype=recipe.dtype) for _ in range(_UPDATED)]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizers = itertools.cycle([optim.Optimizer(recipe.optimizer, {"weight": weight}) for weight in weights])
    seconds = _seconds(lambda: next(optimizers).step(recipe.optimizer.lr))
    return arithmetic.count_touched(recipe.optimizer) * weights[0].nbytes / seconds


def _time_fixed_costs(job: Job) -> tuple[float, float]:
    """Seconds of one tensor operation and of one optimizer step: a layer of one neuron costs nothing else."""
    network = plain_network((1, 1, 1), activation=Activation(name="relu"))
    recipe = Recipe(network=network, batch_size=1, optimizer=job.recipe.optimizer)
    layer, one = Layer(recipe, 1), torch.ones(1, 1)

    def once() -> None:
        layer.forward(one, (0, 0))
        layer.accumulate(layer.hidden_delta(one, (0, 0)), (0, 0))

    work = counted.works(recipe)[0]
    calls = 4 + work.teach(1).calls + work.accumulate(1).calls
    return _cold(once) / calls, _cold(lambda: layer.update(0, job.recipe.optimizer.lr))


def _cold(work: Callable[[], object]) -> float:
    """Median processor seconds of one call after something else has used the processor's cache."""
    other, times = torch.zeros(_CACHE_BYTES // 8), []
    for _ in range(_COLD_RUNS):
        other.add_(1)
        began = time.thread_time()
        work()
        times.append(time.thread_time() - began)
    return statistics.median(times)


def _draw() -> float:
    """Seconds to draw one number of a new feedback matrix."""
    return (
        _seconds(lambda: matrix(256, 256, seed=0, purpose=Purpose.MAGNITUDE, index=0, distribution="normal").abs_())
        / 256**2
    )


def _codec(name: str) -> CodecCost:
    """Seconds per number of a large signal; checks and copies around it count as part of the message."""
    codec, rows, columns = CODECS[name], _LARGE_ROWS, _LARGE_COLUMNS
    signal = torch.randn(rows, columns)
    payload = codec.encode(signal)
    return CodecCost(
        encode=_seconds(codec.encode, signal) / signal.numel(),
        decode=_seconds(lambda: codec.decode(payload, rows, columns, signal.dtype)) / signal.numel(),
    )


def _messages(job: Job) -> tuple[MessageCost, MessageCost, MessageCost]:
    """The costs (send, receive, carry) over gRPC on loopback, from small and large messages."""
    small, large = _stream(job, rows=1, columns=1), _stream(job, rows=_LARGE_ROWS, columns=_LARGE_COLUMNS)
    size = resolve("fp32", torch.float32).max_payload_bytes(_LARGE_ROWS, _LARGE_COLUMNS, torch.float32)
    codec = _codec("fp32")
    of_codec = (codec.encode, codec.decode, 0.0)
    send, receive, carry = (
        MessageCost(seconds=less, seconds_per_byte=max(0.0, more - known * _LARGE_ROWS * _LARGE_COLUMNS - less) / size)
        for less, more, known in zip(small, large, of_codec, strict=True)
    )
    return send, receive, carry


def _stream(job: Job, *, rows: int, columns: int) -> tuple[float, float, float]:
    """Processor seconds per message: of the sending thread, of the receiving thread, and of the wire's at each end.

    One message at a time, so that every thread on its way has to wake up for it, as in a run.
    """
    link = Link(boundary=1, direction=Direction.UP, sender=1, receiver=2, shape=(columns,))
    wire, codec, run_id = WireConfig(checksum=job.wire.checksum), CODECS["fp32"], "calibration"
    inbox = Inbox(link, run_id=run_id, window=job.wire.window, max_payload_bytes=wire.max_payload_bytes)
    sender, receiver = (GrpcTransport(wire, run_id=run_id, worker=worker) for worker in (1, 2))
    spent, taken = {}, threading.Semaphore(0)
    try:
        address = receiver.listen([inbox])
        both: dict[str, Any] = {"link": link, "run_id": run_id, "codec": codec, "exact_codec": codec, "wire": wire}
        out = OutPort(**both, sender=sender.connect(link, address, wire.deadline_seconds))
        into = InPort(**both, inbox=inbox, dtype=torch.float32, device=torch.device("cpu"))
        signal = torch.randn(rows, columns)

        def take() -> None:
            began = time.thread_time()
            for m in range(_MESSAGES):
                into.receive(kind=Kind.ACTIVATION, step=0, micro_batch=m, rows=rows)
                taken.release()
            spent["receive"] = time.thread_time() - began

        thread = threading.Thread(target=take)
        whole, own = time.process_time(), time.thread_time()
        thread.start()
        for m in range(_MESSAGES):
            out.send(signal, kind=Kind.ACTIVATION, step=0, micro_batch=m)
            taken.acquire()
        spent["send"] = time.thread_time() - own
        thread.join()
        spent["carry"] = (time.process_time() - whole - spent["send"] - spent["receive"]) / 2
        out.close()
    finally:
        sender.close()
        receiver.close()
    send, receive, carry = (max(0.0, spent[place]) / _MESSAGES for place in ("send", "receive", "carry"))
    return send, receive, carry
