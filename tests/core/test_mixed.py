"""A mixed run is what torch's own mixed precision makes of the same network, and its books know its rounding."""

import numpy as np
import pytest
import torch
from runs import raw, recipe, run_serial

from distfa.core.base import order
from distfa.core.base.optim import OptimizerConfig
from distfa.core.books.ledger import LedgerRecord
from distfa.core.books.records import StepRecord
from distfa.core.layer import Layer
from distfa.core.rules import RULES

CPU = torch.device("cpu")


@pytest.mark.parametrize("activation", ["relu", "tanh", "leaky_relu", "gelu"])
def test_bp_is_torch_autocast(activation):
    r = recipe(rule="bp", activation=activation, mixed=True, max_steps=1, optimizer=OptimizerConfig(name="sgd", lr=1.0))
    data = raw(r)
    weights, records, _ = run_serial(r, data)
    before = {k: v.clone() for l in range(1, len(r.network) + 1) for k, v in Layer(r, l).state().items()}
    model = r.network.module()
    model.load_state_dict(before)
    x, y = (readers.readers(torch.float32, CPU)[0] for readers in data)
    rows = np.concatenate(next(order.batches(r, len(x))).parts)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x.read(rows))
    loss = torch.nn.functional.cross_entropy(output.float(), y.read(rows))
    loss.backward()
    assert next(record.loss for record in records if isinstance(record, StepRecord)) == pytest.approx(loss.item())
    for key, parameter in model.named_parameters():
        # torch also rounds the sums over rows that make up a bias's gradient; the update itself rounds in float32.
        off = 2.0**-8 * parameter.grad.abs().max().item() if key.endswith("bias") else 1e-6
        assert torch.allclose(before[key] - weights[key], parameter.grad, rtol=1e-5, atol=off), key


@pytest.mark.parametrize("optimizer", [OptimizerConfig(name="adam", lr=1e-3), OptimizerConfig(name="sgd", lr=0.05)])
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.potential])
def test_the_law_holds_within_what_bfloat16_rounds(rule, optimizer):
    r = recipe(
        (12, 70, 33, 40, 5), rule=rule, mixed=True, ledger_every=3, micro_batches=2, epochs=12, optimizer=optimizer
    )
    entries = [record for record in run_serial(r)[1] if isinstance(record, LedgerRecord)]
    assert len(entries) == 20 * 3
    for entry in entries:
        assert entry.holds
        assert max(entry.tolerance, entry.transport_tolerance) < 1e-3 * max(1, entry.incoming)  # it would see a fault
