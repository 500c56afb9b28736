"""What a layer is said to compute and hold, against a real layer: its FLOPs counted by torch, its tensors weighed."""

import pytest
import torch
from plans import setting
from runs import recipe, run_serial
from torch.utils.flop_counter import FlopCounterMode

from distfa.core.layer import Layer
from distfa.core.optim import OptimizerConfig
from distfa.core.rules import RULES, build
from distfa.plan import effort, stream
from distfa.plan.build import training_links
from distfa.plan.memory import layer_memory
from distfa.runtime.job import Job

N = 6
CASES = [(rule, None) for rule in RULES] + [("fa", 3), ("dfa", 3)]
SIZES = (12, 17, 9, 9, 23, 5)


@pytest.mark.parametrize(("rule", "rank"), CASES)
def test_products_are_those_torch_counts(rule, rank):
    r = recipe(SIZES, rule=rule, rank=rank, batch_size=N)
    rule = build(r)
    for l in range(1, len(r.network) + 1):
        layer, shape = Layer(r, l), r.network[l]
        layer.begin_step(0)

        def counted(work):
            with FlopCounterMode(display=False) as counter:
                result = work()
            return counter.get_total_flops(), result

        x = torch.randn(N, shape.inputs)
        flops, _ = counted(lambda: layer.forward(x, (0, 0)))  # noqa: B023
        assert flops == effort.forward(r, l, N).flops
        delta = torch.randn(N, shape.outputs)
        if l < len(r.network):
            columns = SIZES[-1] if rule.reads_labels else rule.width(l)
            message = torch.randn(N, columns)
            flops, delta = counted(lambda: layer.hidden_delta(message, (0, 0)))  # noqa: B023
            assert flops == effort.teach(r, rule, l, N).flops, (rule.name, l)
        for boundary in layer.sends_to:
            flops, sent = counted(lambda: layer.emit(boundary, delta))  # noqa: B023
            assert flops == effort.emit(r, rule, boundary, N).flops, (rule.name, l, boundary)
            assert sent.shape == (N, rule.width(boundary))
        flops, _ = counted(lambda: layer.accumulate(delta, (0, 0)))  # noqa: B023
        assert flops == effort.accumulate(r, rule, l, N).flops


@pytest.mark.parametrize("optimizer", [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0)])
@pytest.mark.parametrize(("rule", "rank"), CASES)
def test_memory_is_that_of_a_layers_tensors(rule, rank, optimizer):
    config = OptimizerConfig(name=optimizer[0], lr=0.01, momentum=optimizer[1])
    r = recipe(SIZES, rule=rule, rank=rank, optimizer=config, ledger_every=2, max_steps=1)
    _, _, trainer = run_serial(r)
    job = Job(run_id="plan", recipe=r, train_rows=1)
    for layer in trainer.layers:
        found = layer_memory(job, layer.rule, layer.index, in_flight=1, links=training_links(r), base=0)
        parameters = [*layer.parameters]
        if layer._feedback_optimizer is not None:
            parameters.append(layer._learns_with)
        optimizers = [o for o in (layer.optimizer, layer._feedback_optimizer) if o is not None]
        states = [v for o in optimizers for s in o.state.values() for v in s.values() if v is not None and v.dim()]
        feedback = [m for m in (*layer._emits_with.values(), layer._learns_with) if m is not None]
        assert found.weights == weigh(layer.parameters)
        assert found.gradients == weigh([p.grad for p in parameters])
        assert found.optimizer == weigh(states)
        assert found.feedback == weigh(feedback), layer.index
        matrix = layer._ledger._matrix if layer._ledger is not None else None
        assert found.ledger == weigh([] if matrix is None else [matrix]), layer.index


def test_what_is_kept_and_what_may_wait_grow_with_the_micro_batches_in_flight():
    planned = setting((4, 6, 8, 3), rule="fa", micro_batches=4, schedule="async")
    r, rule = planned.job.recipe, planned.rule
    kept = [
        layer_memory(planned.job, rule, l, in_flight=stream.in_flight(r, l), links=training_links(r), base=7)
        for l in (1, 2, 3)
    ]
    n = 8
    assert [memory.kept for memory in kept] == [3 * 4 * n * (4 + 12), 2 * 4 * n * (6 + 16), 1 * 4 * n * (8 + 3)]
    window = planned.job.wire.window
    assert [memory.window for memory in kept] == [window * 4 * n * w for w in (6 + 6, 6 + 6 + 8 + 3, 8 + 3)]
    assert all(memory.process == 7 and memory.total > memory.kept for memory in kept)


def weigh(tensors):
    return sum(tensor.nbytes for tensor in tensors)
