"""The products counted for a rule are those that torch sees the layers make."""

from dataclasses import replace

import pytest
import torch
from runs import raw, recipe
from torch.utils.flop_counter import FlopCounterMode

from distfa.bench.products import Product, bound, products
from distfa.bench.rate import timed
from distfa.core.serial import SerialTrainer
from distfa.core.steps import Split
from distfa.errors import BenchError

SIZES = (12, 17, 9, 23, 5)  # wider and narrower upward, so that fa applies B at either end


@pytest.mark.parametrize("rule", ["bp", "fa", "dfa"])
def test_products_are_those_the_serial_engine_makes(rule):
    made = recipe(SIZES, rule=rule, batch_size=64, epochs=1)
    inputs, targets = raw(made, rows=64, test_rows=0)
    readers = zip(inputs.readers(made.dtype, "cpu"), targets.readers(made.dtype, "cpu"), strict=True)
    trainer = SerialTrainer(made, *(Split(inputs=x, targets=y) for x, y in readers))
    with FlopCounterMode(display=False) as counter:
        assert len(list(trainer.run())) == 1
    assert sum(product.flops for layer in products(made).values() for product in layer) == counter.get_total_flops()


def test_products_stand_at_the_layer_that_makes_them():
    made = {rule: products(recipe(SIZES, rule=rule)) for rule in ("bp", "fa", "dfa")}
    counts = {rule: [len(layer) for layer in layers.values()] for rule, layers in made.items()}
    assert counts == {"bp": [2, 3, 3, 3], "fa": [3, 2, 4, 2], "dfa": [3, 3, 3, 2]}


def test_a_rule_whose_products_are_not_counted_is_refused():
    with pytest.raises(BenchError, match="rule 'kp' are not counted; choose one of bp, fa, dfa"):
        products(replace(recipe(), rule="kp"))


def test_the_bound_spreads_layers_over_cores_but_never_splits_one():
    a, b = Product("forward", 1, 1, 1), Product("gradient", 1, 1, 1)
    seconds = {a: 1.0, b: 3.0}
    assert bound({1: [a], 2: [a], 3: [a, a]}, seconds, cores=2) == 2.0
    assert bound({1: [a], 2: [a], 3: [b]}, seconds, cores=2) == 3.0


def test_timing_tells_large_products_from_small_ones():
    small, large = Product("forward", 8, 8, 8), Product("forward", 128, 512, 512)
    of_small, of_large = timed([small, large], dtype=torch.float32, seconds=0.1)
    assert 0 < of_small < of_large
