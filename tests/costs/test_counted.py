"""What is counted of a layer's work is what torch sees a real layer do, and what a real layer holds."""

import pytest
import torch
from runs import raw, recipe
from torch.utils.flop_counter import FlopCounterMode

from distfa.core.base.samples import Split
from distfa.core.layer import Layer
from distfa.core.rules import RULES, build_rule
from distfa.core.serial import SerialTrainer
from distfa.costs import counted
from distfa.measuring.task import Task
from distfa.settings import parse_spec

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
    rule, works = build_rule(r), counted.works(r)
    for l in range(1, len(r.network) + 1):
        layer, shape = Layer(r, l), r.network[l]
        layer.begin_step(0)

        def flops_of(work):
            with FlopCounterMode(display=False) as counter:
                result = work()
            return counter.get_total_flops(), result

        x = torch.randn(N, shape.inputs)
        flops, _ = flops_of(lambda: layer.forward(x, (0, 0)))  # noqa: B023
        assert flops == works[l - 1].forward(N).flops
        delta = torch.randn(N, shape.outputs)
        if l < len(r.network):
            columns = SIZES[-1] if rule.reads_labels else rule.width(l)
            message = torch.randn(N, columns)
            flops, delta = flops_of(lambda: layer.hidden_delta(message, (0, 0)))  # noqa: B023
            assert flops == works[l - 1].teach(N).flops, (rule.name, l)
        for boundary in layer.sends_to:
            flops, sent = flops_of(lambda: layer.emit(boundary, delta, (0, 0)))  # noqa: B023
            assert flops == works[l - 1].emit(boundary, N).flops, (rule.name, l, boundary)
            assert sent.shape == (N, rule.width(boundary))
        flops, _ = flops_of(lambda: layer.accumulate(delta, (0, 0)))  # noqa: B023
        assert flops == works[l - 1].accumulate(N).flops


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_has_the_products_the_serial_engine_makes(case):
    made = recipe(SIZES, **case, batch_size=64, epochs=1)
    inputs, targets = raw(made, rows=64, test_rows=0)
    readers = zip(inputs.readers(made.dtype, "cpu"), targets.readers(made.dtype, "cpu"), strict=True)
    trainer = SerialTrainer(made, *(Split(inputs=x, targets=y) for x, y in readers))
    with FlopCounterMode(display=False) as counter:
        assert len(list(trainer.run())) == 1
    assert sum(product.flops for layer in counted.step(made) for product in layer) == counter.get_total_flops()


def test_products_stand_at_the_layer_that_makes_them():
    counts = {
        rule: [len(layer) for layer in counted.step(recipe((12, 17, 9, 23, 5), rule=rule))]
        for rule in ("bp", "fa", "dfa", "kp")
    }
    assert counts == {"bp": [2, 3, 3, 3], "fa": [3, 2, 4, 2], "dfa": [3, 3, 3, 2], "kp": [4, 4, 4, 2]}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_numbers_and_with_them_the_count_is_the_same(case):
    r = recipe(SIZES, **case, batch_size=N)
    for layer, work in enumerate(counted.works(r), start=1):
        drawn = counted._work(r, layer, None)
        for name in ("forward", "teach", "accumulate"):
            assert getattr(work, name)(2 * N).flops == getattr(drawn, name)(2 * N).flops, (layer, name)
        for boundary in work.sends_to:
            assert work.emit(boundary, N).flops == drawn.emit(boundary, N).flops
        held = ("sends_to", "parameters", "trained", "learned", "feedback", "books")
        assert [getattr(work, name) for name in held] == [getattr(drawn, name) for name in held], layer
        assert work.update() == drawn.update()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_kept_drawn_and_learned_is_what_the_rules_matrices_hold(case):
    rule = build_rule(recipe(SIZES, **case))
    works = counted.works(rule.recipe)
    senders, drawn = [0] * len(works), [0] * len(works)
    for boundary in rule.network.boundaries:
        origin = rule.origin(boundary)
        weights = {} if origin is None else Layer(rule.recipe, origin).block.weights()
        fresh = rule.refresh(boundary, 0, weights)
        sender = rule.origin_state(boundary, weights) if fresh is None else fresh
        if origin is not None:
            senders[origin - 1] += sum(map(numbers, sender.values()))
            drawn[origin - 1] += sum(map(numbers, (fresh or {}).values()))
    for layer, work in enumerate(works, start=1):
        teacher = rule.teacher(layer) if layer < len(works) else None
        assert work.feedback == senders[layer - 1] + numbers(teacher)
        assert work.update().drawn == drawn[layer - 1]
        learns = teacher is not None and rule.learns_at_learner(layer)
        assert work.learned == (numbers(teacher) if learns else 0)
        assert bool(work.teach(N).products) == bool(numbers(teacher))


def test_of_layers_that_are_alike_one_is_counted():
    works = counted.works(recipe((12, *[16] * 1000, 10), rule="kp"))
    efforts = {id(work.forward(N)) for work in works}
    assert len(efforts) == 4  # the first, the last, the one below that with its smaller feedback, and all others


def numbers(matrix):
    if matrix is None:
        return 0
    return matrix.values().numel() if matrix.is_sparse else matrix.numel()


@pytest.mark.parametrize(
    ("model", "data", "rule"),
    [("lenet", "digits", "fa"), ("lenet", "digits", "dfa"), ("lenet", "digits", "bp"), ("transformer", "stdlib", "kp")],
)
def test_a_step_of_any_model_has_the_flops_that_torch_counts(model, data, rule):
    raw = {
        "data": {"name": data, "limit": 8},
        "model": {"name": model},
        "rule": rule,
        "batch_size": 8,
        "epochs": 1,
        "init": "random",
    }
    task = Task.of(parse_spec({**raw, "ledger": {"every": 0}, "probe": {"every": 0}}))
    trainer = SerialTrainer(task.recipe, task.splits()[0], task.without_test().splits()[1], modules=task.modules)
    _, made, _ = counted.count_work(lambda: list(trainer.run()))
    rule, total = build_rule(task.recipe), 0
    for layer, work in enumerate(counted.works(task.recipe, task.modules), start=1):
        total += sum(effort.flops for effort in (work.forward(8), work.teach(8), work.accumulate(8)))
        total += sum(work.emit(boundary, 8).flops for boundary in rule.sent_by.get(layer, ()))
        assert work.kept(8) > 0
    assert made.flops == total


def test_a_sparse_matrix_counts_by_the_numbers_that_it_has():
    matrix = torch.eye(50).to_sparse()
    _, effort, _ = counted.count_work(lambda: torch.sparse.mm(matrix, torch.ones(50, 3)))
    assert effort.flops == 2 * 50 * 3
