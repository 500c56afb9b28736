"""What a rule says of itself; and that nobody else asks which rule it is."""

import ast
from pathlib import Path

import pytest
import torch
from runs import recipe

from distfa.core import rules
from distfa.core.layer import Layer
from distfa.core.rules import RULES

PACKAGE = Path(rules.__file__).parents[2]
SIZES = (12, 17, 9, 9, 23, 5)
DEFAULTS = {  # of specs and options; and a word that means something else
    ("core/base/recipe.py", "dfa"),
    *(("bench/options.py", rule) for rule in ("bp", "fa", "dfa")),
    *(("lab/links/options.py", rule) for rule in ("fa", "dfa")),
    *(("lab/questions/base.py", rule) for rule in ("bp", "fa", "dfa", "dkp")),
    ("pages/plots.py", "skip"),  # plotly's word for points without a text
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_knows_whether_its_feedback_depends_on_init(name):
    aligned, random = (rules.build_rule(recipe(SIZES, rule=name, init=init)) for init in ("aligned", "random"))

    def held(rule):
        origin = rule.origin(1)
        weights = {} if origin is None else Layer(rule.recipe, origin).block.weights()
        return [*rule.origin_state(1, weights).values(), *([] if rule.teacher(1) is None else [rule.teacher(1)])]

    pairs = zip(held(aligned), held(random), strict=True)
    assert any(not torch.equal(a.to_dense(), b.to_dense()) for a, b in pairs) == aligned.takes_init


def test_errors_are_sent_from_the_top_origin_down_and_by_one_origin_upwards():
    def sent(**changes):
        return rules.build_rule(recipe((4, 4, 4, 4, 4), **changes)).sending_order

    assert sent(rule="bp") == sent(rule="kp") == [3, 2, 1]
    assert sent(rule="dfa") == [1, 2, 3]
    assert sent(rule="dfa", fanout=2) == [2, 3, 1]  # layer 4 sends to 2 and 3, layer 3 to 1


def test_no_other_package_compares_a_rules_name():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        file = path.relative_to(PACKAGE).as_posix()
        if file.startswith("core/rules/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and set(node.value.split(",")) <= {*RULES}
            ):
                found.add((file, node.value))
    assert found == DEFAULTS
