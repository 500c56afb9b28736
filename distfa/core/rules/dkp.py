"""dkp: direct Kolen-Pollack, direct feedback that learns beside its layer."""

from __future__ import annotations

from dataclasses import replace

from distfa.core.base.optim import Movable, OptimizerConfig, Rates
from distfa.core.base.recipe import Recipe
from distfa.core.rules.dfa import DirectFeedbackAlignment

DECAY = 0.1
"""Of B, where the recipe names none."""


class DirectKolenPollack(DirectFeedbackAlignment):
    """s_l = e B_l, and B_l learns: the optimizer of its layer moves it along e^T h_l and makes it decay.

    Layer l holds h_l and gets e, which is all that the update needs: not one byte more than dfa. An output layer that
    read h_l would learn e^T h_l, so B_l(t) - B_l(0) is the readout of layer l, the shadow of dfa's law. With decay the
    start is forgotten, and B_l becomes that readout.

    The law: under gradient flow d/dt 1/2 ||B_l[:,i]||^2 = -sum_n s h. The incoming weights grow by the same amount, so
    Q_l[i] = 1/2 ||W_l[i]||^2 + 1/2 b_l[i]^2 - 1/2 ||B_l[:,i]||^2 is conserved. Decay is counted under ``optimizer``.

    Source: Kolen & Pollack, ICNN 1994, for feedback that takes the weights' update; theory.md, direct feedback that
    learns, for the direct form.
    """

    name = "dkp"
    equation = "e B_l, dB_l along e^T h_l"
    sends = "C, straight from the output"
    potential = "1/2 ||B_l[:,i]||^2"
    source = "distfa, after Kolen & Pollack 1994"
    takes_rank = False
    takes_decay = True

    def learns_at_learner(self, boundary: int) -> bool:
        """At every layer."""
        return True

    def feedback_optimizer(self) -> OptimizerConfig:
        """The layers' optimizer, with B's decay; Adam must not scale that, or it would erase a B that learns slowly."""
        own = self.recipe.optimizer
        moves: dict[Movable, Rates] = {key: values for key, values in own.moves.items() if key != "weight_decay"}
        name = "adamw" if own.name == "adam" else own.name
        return replace(own, name=name, weight_decay=decay(self.recipe), moves=moves, fold=False)

    def potential_layer(self, boundary: int) -> int:
        """Layer l, which keeps B_l."""
        return boundary


def decay(recipe: Recipe) -> float:
    """The decay of B in this recipe."""
    return DECAY if recipe.feedback.decay is None else recipe.feedback.decay
