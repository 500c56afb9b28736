"""A layer that raises, hangs, dies or sends the wrong thing ends the run with one message that names it."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from runs import ThreadRun, raw, recipe, run_serial, run_threads
from torch import nn
from zoo import prepared

from distfa.core.layer import Layer
from distfa.errors import DeadlineExceeded, LayerError, LayerLost, MessageRefused, NonFiniteError, PeerLost
from distfa.transport import serde
from distfa.transport.base import WireConfig
from distfa.transport.message import Kind

QUICK = WireConfig(deadline_seconds=2.0)


class Meddler:
    """A transport whose senders pass every message through a function that may change, drop or repeat it."""

    def __init__(self, transport, meddle):
        self._transport, self._meddle = transport, meddle

    def listen(self, inboxes):
        return self._transport.listen(inboxes)

    def connect(self, link, address, deadline_seconds, changed):
        sender = self._transport.connect(link, address, deadline_seconds, changed)
        plain_send = sender.send

        def send(data, deadline_seconds, **waited):
            for message in self._meddle(serde.message_from_bytes(data)):
                plain_send(serde.message_to_bytes(message), deadline_seconds, **waited)

        sender.send = send
        return sender

    def close(self):
        self._transport.close()


def fails(meddle, *, layer=2, **options):
    """Run with layer ``layer``'s messages meddled with; returns the error."""

    def wrap(index, transport):
        return Meddler(transport, meddle) if index == layer else transport

    with pytest.raises(LayerError) as caught:
        run_threads(recipe(rule="fa"), wire=QUICK, wrap_transport=wrap, **options)
    return caught.value


def at(message, step, kind):
    return message.identity.step == step and message.identity.kind is kind


@pytest.mark.parametrize("transport", ["grpc", "loopback"])
@pytest.mark.parametrize("kind", [Kind.ACTIVATION, Kind.ERROR])
def test_a_repeated_message_is_refused_where_and_when_it_came(transport, kind):
    error = fails(lambda m: [m, m] if at(m, 3, kind) else [m], transport=transport)
    receiver, boundary = (3, 2) if kind is Kind.ACTIVATION else (1, 1)
    assert isinstance(error, MessageRefused)
    assert f"layer {receiver}, step 4, refused the {kind.value} from layer 2 across boundary {boundary}, step 3" in str(
        error
    )
    assert "lost, repeated or reordered" in str(error)


@pytest.mark.parametrize(
    ("kind", "missed"),
    [
        (Kind.ACTIVATION, "layer 3 waited 2.0 s for the activation from layer 2 across boundary 2, step 3"),
        (Kind.ERROR, "layer 1 waited 2.0 s for the error from layer 2 across boundary 1, step 3"),
    ],
)
def test_of_all_layers_that_wait_for_each_other_the_one_that_missed_a_message_is_named(kind, missed):
    """A lost message stops the pipe, and every layer runs into its deadline at about the same time."""
    error = fails(lambda m: [] if at(m, 3, kind) else [m])
    assert isinstance(error, DeadlineExceeded)
    assert missed in str(error)


def test_a_payload_altered_on_the_way_fails_its_checksum():
    def flip(message):
        if at(message, 2, Kind.ERROR):
            payload = message.payload.copy()
            payload[5] ^= 1
            return [replace(message, payload=payload)]
        return [message]

    error = fails(flip)
    assert isinstance(error, MessageRefused)
    assert "layer 1 refused error from layer 2 across boundary 1, step 2" in str(error)
    assert "CRC-32C" in str(error)


def test_an_infinite_signal_names_the_layer_that_sent_it():
    def poison(message):
        if at(message, 1, Kind.ACTIVATION):
            payload = np.full(message.payload.size // 4, np.inf, np.float32).view(np.uint8)
            return [replace(message, payload=payload, checksum=serde.checksum(payload))]
        return [message]

    error = fails(poison)
    assert isinstance(error, NonFiniteError)
    assert "layer 3, step 1: 144 of 144 values of the activation from layer 2 are NaN or infinite" in str(error)


def test_a_layer_that_raises_is_named_and_the_others_do_not_hide_it(monkeypatch):
    plain = Layer.update

    def update(self, step, lr):
        if self.index == 2:
            raise RuntimeError("out of something")
        return plain(self, step, lr)

    monkeypatch.setattr(Layer, "update", update)
    with pytest.raises(LayerError, match=r"^layer 2, step 0: RuntimeError: out of something$"):
        run_threads(recipe(), wire=QUICK)


def on_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 15.00 GiB in all.")


@pytest.mark.parametrize("engine", [run_serial, run_threads])
@pytest.mark.parametrize(
    ("greedy", "said"),
    [
        (lambda: np.empty(2**55), "MemoryError: Unable to allocate 256. PiB"),
        (lambda: [0] * 2**60, "(MemoryError)"),
        (lambda: torch.empty(2**55), "RuntimeError: [enforce fail at "),
        (on_a_gpu, "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 15.00 GiB in all)"),
    ],
    ids=["numpy", "python", "torch", "gpu"],
)
def test_a_module_that_asks_for_more_memory_than_there_is_ends_the_run_with_layer_step_and_advice(engine, greedy, said):
    class Greedy(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return super().forward(x) if self.calls < 6 else greedy()

    r, modules, data = prepared(nn.Sequential(nn.Linear(6, 6), Greedy(6, 6), nn.Linear(6, 3)), (6,), 3)
    with pytest.raises(LayerError, match=r"^layer 2, step \d: there is not enough memory") as caught:
        engine(r, data, modules=modules)
    assert said in str(caught.value)
    assert "; make batch_size smaller, split each batch into more micro_batches, or use a machine" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is LayerError  # which no recovery is tried after


@pytest.mark.parametrize("sizes", [(12, 17, 9, 5), (12, 5)], ids=["3 layers", "1 layer"])
def test_a_layer_that_hangs_is_named_soon_after_the_deadline(monkeypatch, sizes):
    plain, hung, over = Layer.update, len(sizes) - 1, threading.Event()

    def update(self, step, lr):
        if self.index == hung:
            over.wait(60)
        return plain(self, step, lr)

    monkeypatch.setattr(Layer, "update", update)
    began = time.monotonic()
    try:
        with pytest.raises(LayerLost, match=rf"layer {hung}, step 0: it has been computing for \d+ s"):
            run_threads(recipe(sizes), wire=WireConfig(deadline_seconds=1.5))
    finally:
        over.set()
    assert time.monotonic() - began < 20  # far above any scheduling delay, far below the hang


def test_while_nothing_moves_somebody_is_told_again_and_again_and_then_every_layers_error(monkeypatch):
    plain, over, seen = Layer.update, threading.Event(), []

    def update(self, step, lr):
        if self.index == 2:
            over.wait(60)
        return plain(self, step, lr)

    monkeypatch.setattr(Layer, "update", update)
    with ThreadRun(recipe(), wire=WireConfig(deadline_seconds=1.5)) as run:
        run.coordinator.connect(run.addresses, 10.0)

        def tick():
            seen.append({layer: status.waiting_for_layer for layer, status in run.coordinator.status.items()})

        try:
            with pytest.raises(LayerLost, match=r"layer 2, step 0: it has been computing"):
                list(run.coordinator.train(tick))
        finally:
            over.set()
    assert any(waits.get(2) == 0 and waits.get(3) == 2 for waits in seen)  # who waits for whom, as it stood
    assert run.coordinator.errors[2].startswith("layer 2, step 0: it has been computing for ")


def test_a_loss_that_explodes_ends_serial_and_wired_runs_alike():
    r = recipe(optimizer=replace(recipe().optimizer, lr=1e30))
    with pytest.raises(NonFiniteError, match="lower the learning rate") as serial:
        run_serial(r)
    with pytest.raises(NonFiniteError) as wired:
        run_threads(r)
    assert str(serial.value) == str(wired.value)


def test_nan_passes_where_the_run_says_so():
    r = recipe(check_finite=False, max_steps=2)
    inputs, targets = raw(r)
    inputs.train[0, 0] = float("nan")
    weights, _ = run_threads(r, (inputs, targets))
    assert torch.isnan(weights["0.weight"]).any()


def test_a_layer_nobody_answers_for_is_named_when_connecting():
    with ThreadRun(recipe()) as run:
        run.addresses[2] = "127.0.0.1:1"
        with pytest.raises(DeadlineExceeded, match=r"layer 1 could not reach layer 2 at 127\.0\.0\.1:1 within 1 s"):
            run.coordinator.connect(run.addresses, 1.0)


def test_different_feedback_shapes_at_the_two_ends_are_refused():
    """Layers that disagree about the network cannot exchange a single signal."""
    with ThreadRun(recipe()) as run:
        other = ThreadRun(recipe((12, 17, 11, 23, 5)))
        stranger = other.handles[1].hosted
        run.handles[1].hosted, other.handles[1].hosted = stranger, run.handles[1].hosted
        run.addresses[2] = other.addresses[2]
        with other, pytest.raises(LayerError, match="disagree about the network or the batch"):
            run.train()


def test_a_stream_that_breaks_names_both_layers_and_the_step():
    """A partition of the network: no process died, nobody refused anything, the other end is just gone."""
    with ThreadRun(recipe(epochs=400), wire=QUICK) as run:
        run.coordinator.connect(run.addresses, 10.0)
        records = run.coordinator.train()
        while next(records).step < 5:
            pass
        for channel in run.handles[1].hosted._transport._channels:
            channel.close()
        with pytest.raises(PeerLost, match=r"^layer \d, step \d+: layer \d .*disconnected"):
            list(records)
