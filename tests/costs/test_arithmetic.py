"""The products said of a rule are those that torch sees the layers make, at the layer that makes them."""

import pytest
import torch
from runs import raw, recipe
from torch.utils.flop_counter import FlopCounterMode

from distfa.bench.matrix_rate import bound, timed
from distfa.core.base.samples import Split
from distfa.core.layer import Layer
from distfa.core.rules import RULES, build_rule
from distfa.core.serial import SerialTrainer
from distfa.costs import arithmetic
from distfa.costs.arithmetic import Product

N = 6
CASES = [{"rule": rule} for rule in RULES] + [
    {"rule": "fa", "rank": 3},
    {"rule": "dfa", "rank": 3},
    {"rule": "dfa", "fanout": 2},
]
SIZES = (12, 17, 9, 9, 23, 5)  # wider and narrower upward, so that fa applies B at either end


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_those_torch_counts(case):
    r = recipe(SIZES, **case, batch_size=N)
    rule, works = build_rule(r), arithmetic.works(r)
    for l in range(1, len(r.network) + 1):
        layer, shape = Layer(r, l), r.network[l]
        layer.begin_step(0)

        def counted(work):
            with FlopCounterMode(display=False) as counter:
                result = work()
            return counter.get_total_flops(), result

        x = torch.randn(N, shape.inputs)
        flops, _ = counted(lambda: layer.forward(x, (0, 0)))  # noqa: B023
        assert flops == works[l - 1].forward(N).flops
        delta = torch.randn(N, shape.outputs)
        if l < len(r.network):
            columns = SIZES[-1] if rule.reads_labels else rule.width(l)
            message = torch.randn(N, columns)
            flops, delta = counted(lambda: layer.hidden_delta(message, (0, 0)))  # noqa: B023
            assert flops == works[l - 1].teach(N).flops, (rule.name, l)
        for boundary in layer.sends_to:
            flops, sent = counted(lambda: layer.emit(boundary, delta))  # noqa: B023
            assert flops == works[l - 1].emit(boundary, N).flops, (rule.name, l, boundary)
            assert sent.shape == (N, rule.width(boundary))
        flops, _ = counted(lambda: layer.accumulate(delta, (0, 0)))  # noqa: B023
        assert flops == works[l - 1].accumulate(N).flops


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_has_the_products_the_serial_engine_makes(case):
    made = recipe(SIZES, **case, batch_size=64, epochs=1)
    inputs, targets = raw(made, rows=64, test_rows=0)
    readers = zip(inputs.readers(made.dtype, "cpu"), targets.readers(made.dtype, "cpu"), strict=True)
    trainer = SerialTrainer(made, *(Split(inputs=x, targets=y) for x, y in readers))
    with FlopCounterMode(display=False) as counter:
        assert len(list(trainer.run())) == 1
    assert sum(product.flops for layer in arithmetic.step(made) for product in layer) == counter.get_total_flops()


def test_products_stand_at_the_layer_that_makes_them():
    counts = {
        rule: [len(layer) for layer in arithmetic.step(recipe((12, 17, 9, 23, 5), rule=rule))]
        for rule in ("bp", "fa", "dfa", "kp")
    }
    assert counts == {"bp": [2, 3, 3, 3], "fa": [3, 2, 4, 2], "dfa": [3, 3, 3, 2], "kp": [4, 4, 4, 2]}


@pytest.mark.parametrize("kind", ["forward", "gradient", "down"])
def test_factors_have_the_products_shape_whatever_their_place_in_memory(kind):
    left, right = Product(3, 4, 5, kind).factors(torch.float32)
    assert (left.shape, right.shape) == ((3, 4), (4, 5))
    assert (left.is_contiguous(), right.is_contiguous()) == (kind != "gradient", kind != "forward")


def test_the_bound_spreads_layers_over_cores_but_never_splits_one():
    a, b = Product(1, 1, 1, "forward"), Product(1, 1, 1, "gradient")
    seconds = {a: 1.0, b: 3.0}
    assert bound([[a], [a], [a, a]], seconds, cores=2) == 2.0
    assert bound([[a], [a], [b]], seconds, cores=2) == 3.0


def test_timing_tells_large_products_from_small_ones():
    small, large = Product(8, 8, 8), Product(128, 512, 512)
    of_small, of_large = timed([small, large], dtype=torch.float32, seconds=0.1)
    assert 0 < of_small < of_large
