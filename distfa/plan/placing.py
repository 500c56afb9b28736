"""Whether another placement of the layers would be faster, in words."""

from __future__ import annotations

from dataclasses import replace

from distfa.errors import PlanError
from distfa.plan.build import Setting
from distfa.plan.cluster import place
from distfa.plan.predict import Forecast, forecast
from distfa.plan.setup import Planned

_MATTERS = 0.05
_OTHERS = {"pack": "spread", "strict_pack": "spread", "spread": "pack", "strict_spread": "pack"}


def notes(planned: Planned, setting: Setting, found: Forecast) -> list[str]:
    """Notes on where the layers are: that no line is used, and which placement is faster.

    Args:
        planned: The run.
        setting: Where its layers are.
        found: The prediction for that.
    """
    said, mine = [], planned.spec.ray.placement
    layers, used = len(setting.nodes), len(set(setting.nodes))
    if used == 1 and layers > 1 and len(setting.cluster.each) > 1:
        said.append(f"note: placement {mine!r} puts all {layers} layers on one node, so nothing crosses the network")
    other = _OTHERS[mine]
    try:
        nodes = place(setting.cluster, layers, other, planned.spec.ray.resources.cpus)
    except PlanError:
        return said
    if nodes == setting.nodes:
        return said
    seconds = forecast(replace(setting, nodes=nodes)).step_seconds
    if seconds < (1 - _MATTERS) * found.step_seconds:
        said.append(
            f"note: --set ray.placement={other} puts them on {len(set(nodes))} nodes, and a step would take "
            f"{1e3 * seconds:,.2f} ms, {1 - seconds / found.step_seconds:.0%} less"
        )
    return said
