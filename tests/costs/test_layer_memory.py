"""What a layer is said to hold, against a real layer: its tensors weighed."""

import pytest
import torch
from runs import recipe, run_serial

from distfa.codecs import resolve
from distfa.core.base.optim import OptimizerConfig
from distfa.core.rules import RULES
from distfa.costs.counted import works
from distfa.costs.layer_memory import memory_by_layer

CASES = [{"rule": rule} for rule in RULES] + [
    {"rule": "fa", "rank": 3},
    {"rule": "dfa", "rank": 3},
    {"rule": "dfa", "fanout": 2},
]
FP32 = lambda direction: resolve("fp32", torch.float32)  # noqa: E731
SIZES = (12, 17, 9, 9, 23, 5)


@pytest.mark.parametrize("optimizer", [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_memory_is_that_of_a_layers_tensors(case, optimizer):
    config = OptimizerConfig(name=optimizer[0], lr=0.01, momentum=optimizer[1])
    r = recipe(SIZES, **case, optimizer=config, ledger_every=2, max_steps=1)
    _, _, trainer = run_serial(r)
    for layer in trainer.layers:
        found = memory_by_layer(r, works(r), codec=FP32, window=4, base=0)[layer.index - 1]
        parameters = [*layer.parameters]
        parameters += [operand.master for operand in layer.ends.learned.values()]
        optimizers = [layer.optimizer, layer.ends.optimizer]
        states = [v for o in optimizers for s in o.state.values() for v in s.values() if v is not None and v.dim()]
        feedback = list(layer.ends.tensors())
        assert found.weights == weigh(layer.parameters)
        assert found.gradients == weigh([p.grad for p in parameters])
        assert found.optimizer == weigh(states)
        assert found.feedback == weigh(feedback), layer.index
        matrix = layer._ledger.matrix if layer._ledger is not None else None
        assert found.ledger == weigh([] if matrix is None else [matrix]), layer.index


def test_what_is_kept_and_what_may_wait_grow_with_the_micro_batches_in_flight():
    r = recipe((4, 6, 8, 3), rule="fa", batch_size=32, micro_batches=4, schedule="async")
    window = 4
    kept = memory_by_layer(r, works(r), codec=FP32, window=window, base=7)
    n = 8
    assert [memory.kept for memory in kept] == [3 * 4 * n * (4 + 12), 2 * 4 * n * (6 + 16), 1 * 4 * n * (8 + 3)]
    assert [memory.window for memory in kept] == [window * 4 * n * w for w in (6 + 6, 6 + 6 + 8 + 3, 8 + 3)]
    assert all(memory.process == 7 and memory.total > memory.kept for memory in kept)


def weigh(tensors):
    return sum(tensor.nbytes for tensor in tensors)
