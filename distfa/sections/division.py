"""How a model is divided into layers: found once, then laid over the model and over every copy of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import nn

from distfa.core.modules.section import Plan, Section
from distfa.core.modules.split import children, group, layer_module


@dataclass(frozen=True, kw_only=True)
class Division:
    """The layers of a model.

    Attributes:
        modules: Of an ``nn.Sequential``: how many of its modules each layer has.
        plans: Of any other model: the plan of each layer.
    """

    modules: tuple[int, ...] = ()
    plans: tuple[Plan, ...] = ()

    @classmethod
    def usual(cls, model: nn.Module, *, head: bool = False) -> Division:
        """Of an ``nn.Sequential``: a layer for each module with parameters; ``head`` as for ``group``."""
        return cls(modules=tuple(map(len, group(model, head=head))))

    def parts(self, model: nn.Module) -> list[nn.Module]:
        """Every layer as a module that holds the model's own modules; its state_dict has the model's keys."""
        if self.plans:
            return [Section(plan, model) for plan in self.plans]
        named = iter(children(model))
        return [layer_module([*itertools.islice(named, count)]) for count in self.modules]
