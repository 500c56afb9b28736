"""The matrix products of a step: how many a rule needs, of which shapes, and at which layer.

For a batch of n rows: forward z = h W^T and gradient G = delta^T h at every layer, and one product on the way down
per boundary: n x d_{l+1} x d_l hop by hop (bp at the sender; fa at the end that makes the message narrower),
n x C x d_l for dfa. bp thus makes 3 products per layer and 2 at the first, dfa 2 per layer and small ones.
"""

from __future__ import annotations

from typing import NamedTuple

from distfa.core.recipe import Recipe
from distfa.errors import BenchError

RULES: tuple[str, ...] = ("bp", "fa", "dfa")


class Product(NamedTuple):
    """One product of a step.

    Attributes:
        kind: ``forward``: (rows, inputs) by W^T; ``gradient``: delta^T by (rows, inputs); ``down``: (rows, outputs) by
            a matrix in the shape of W. Sizes are the same, memory is read in other orders.
        rows: n.
        outputs: Rows of the matrix.
        inputs: Columns of the matrix.
    """

    kind: str
    rows: int
    outputs: int
    inputs: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.rows * self.outputs * self.inputs


def products(recipe: Recipe) -> dict[int, list[Product]]:
    """What every layer multiplies in one step of ``recipe.batch_size`` rows.

    Raises:
        BenchError: The products of the rule have not been counted.
    """
    if recipe.rule not in RULES:
        raise BenchError(f"the products of rule {recipe.rule!r} are not counted; choose one of {', '.join(RULES)}")
    rows, sizes = recipe.batch_size, recipe.network.sizes
    made = {
        l: [Product(kind, rows, sizes[l], sizes[l - 1]) for kind in ("forward", "gradient")]
        for l in range(1, len(sizes))
    }
    for boundary in recipe.network.boundaries:
        below, above = sizes[boundary], sizes[boundary + 1]
        if recipe.rule == "dfa":
            made[boundary].append(Product("down", rows, sizes[-1], below))
        else:
            at_sender = recipe.rule == "bp" or below < above
            made[boundary + 1 if at_sender else boundary].append(Product("down", rows, above, below))
    return made


def bound(made: dict[int, list[Product]], seconds: dict[Product, float], cores: int) -> float:
    """The least seconds of a step: its products spread evenly over the cores, but no layer over several.

    Args:
        made: As ``products`` gives it.
        seconds: Of each product on one core, the others busy alike.
        cores: How many there are.
    """
    layers = [sum(seconds[product] for product in layer) for layer in made.values()]
    return max(sum(layers) / cores, max(layers))
