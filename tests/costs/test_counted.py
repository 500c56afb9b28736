"""What is counted of a layer's work is what the closed forms say of plain layers, and what torch sees of any others."""

import pytest
from runs import recipe

from distfa.core.rules import RULES, build_rule
from distfa.core.serial import SerialTrainer
from distfa.costs import counted
from distfa.costs.arithmetic import LayerWork
from distfa.costs.counted import CountedWork
from distfa.measuring.task import Task
from distfa.settings import parse_spec

N = 6
SIZES = (12, 17, 9, 9, 23, 5)


@pytest.mark.parametrize("case", [*({"rule": rule} for rule in RULES), {"rule": "dfa", "fanout": 2}], ids=str)
def test_of_plain_layers_the_count_is_the_closed_form(case):
    r = recipe(SIZES, **case, batch_size=N)
    rule = build_rule(r)
    for layer in range(1, len(r.network) + 1):
        found, said = CountedWork(r, layer, None), LayerWork(r, rule, layer)
        for name in ("forward", "teach", "accumulate"):
            assert getattr(found, name)(2 * N).flops == getattr(said, name)(2 * N).flops, (layer, name)
        for boundary in rule.sent_by.get(layer, ()):
            assert found.emit(boundary, N).flops == said.emit(boundary, N).flops
        kept = ("parameters", "trained", "learned", "feedback", "books")
        assert [getattr(found, name) for name in kept] == [getattr(said, name) for name in kept], layer
        assert found.update() == said.update()


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
    _, made, _ = counted._counting(lambda: list(trainer.run()))
    rule, total = build_rule(task.recipe), 0
    for layer, work in enumerate(counted.works(task.recipe, task.modules), start=1):
        total += sum(effort.flops for effort in (work.forward(8), work.teach(8), work.accumulate(8)))
        total += sum(work.emit(boundary, 8).flops for boundary in rule.sent_by.get(layer, ()))
        assert work.kept(8) > 0
    assert made.flops == total
