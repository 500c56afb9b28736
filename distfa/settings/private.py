"""Private training in a run spec: its keys, what follows from them, and what cannot be private."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Gt, Lt

from distfa import codecs
from distfa.core import rules
from distfa.core.base import losses

if TYPE_CHECKING:
    from distfa.settings.schema import RunSpec

POISSON = "poisson"


@dataclass(frozen=True, kw_only=True)
class PrivacyConfig:
    """Differentially private training (see the how-to guide): on if ``epsilon`` or ``noise`` is given.

    Attributes:
        epsilon: The most that the trained weights may reveal about a sample, together with ``delta``; the noise is
            solved for it, unless ``noise`` is given too: then the run ends before a step that would exceed it.
        noise: Standard deviation of the noise as a multiple of ``clip``; None: solved for ``epsilon``.
        clip: The largest norm of one sample's gradient, all layers together.
        delta: The probability, about, with which ``epsilon`` need not hold; below 1 / (number of samples).
        shares: How ``clip`` is shared out among layers; equal: all get the same; parameters: the squares are as their
            numbers of parameters.
        seeded: Draw noise and samples from ``seed``, for tests and studies: such a run is not private.
        key: File of the secret key, which a new run makes and which a resumed one needs; None: one in ~/.distfa/keys.
    """

    epsilon: Annotated[float, Gt(0)] | None = None
    noise: Annotated[float, Gt(0)] | None = None
    clip: Annotated[float, Gt(0)] | None = None
    delta: Annotated[float, Gt(0), Lt(1)] = 1e-5
    shares: Literal["equal", "parameters"] = "equal"
    seeded: bool = False
    key: str | None = None

    @property
    def on(self) -> bool:
        """Whether the run is private."""
        return self.epsilon is not None or self.noise is not None


def with_private_defaults(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """A raw spec in which a private run has Poisson batches and neither ledger nor probes, if nothing else is said."""
    said = raw.get("privacy")
    given = vars(said) if isinstance(said, PrivacyConfig) else said if isinstance(said, Mapping) else {}
    if given.get("epsilon") is None and given.get("noise") is None:
        return raw
    made = dict(raw)
    data = {"name": made["data"]} if isinstance(made.get("data"), str) else made.get("data", {})
    for section, known, default in (
        ("data", data, {"order": POISSON}),
        ("ledger", made.get("ledger", {}), {"every": 0}),
        ("probe", made.get("probe", {}), {"every": 0}),
    ):
        made[section] = {**default, **known} if isinstance(known, Mapping) else known
    return made


def refuse_what_is_not_private(spec: RunSpec) -> None:
    """Refuse a private run with a setting whose privacy nobody has shown.

    Raises:
        ValueError: Names the first such setting, and the way out.
    """
    privacy = spec.privacy
    if not privacy.on:
        if privacy != PrivacyConfig():
            raise ValueError("privacy needs an epsilon, or a noise; set privacy.epsilon=3, or leave the others out")
        if spec.data.order == POISSON:
            raise ValueError("data.order is 'poisson', which is for private training; set privacy.epsilon, or drawn")
        return
    if (found := next(_not_private(spec), None)) is not None:
        raise ValueError(f"{found} (privacy.epsilon or privacy.noise asks for private training)")


def _not_private(spec: RunSpec) -> Iterator[str]:
    """What stands against privacy, and the way out."""
    feedback, rule = spec.feedback, rules.RULES.known(spec.rule)
    if spec.privacy.clip is None:
        yield "privacy.clip is missing: without a bound on a sample's gradient no noise hides it; 1.0 is a usual start"
    if spec.rule not in list(rules.RULES):
        yield f"rule {spec.rule!r} is a user's own, and distfa does not know what it takes from samples; use dfa or fa"
    if rule is not None and not rule.takes_privacy:
        able = rules.able("takes_privacy")
        yield f"rule {spec.rule!r} has no proof of privacy; use one of {able}"
    if spec.loss not in list(losses.LOSSES):
        yield f"loss {spec.loss!r} is a user's own, and may mix samples; use one of {', '.join(losses.LOSSES)}"
    if spec.optimizer.fold:
        yield "optimizer.fold makes the update before noise could be added; leave it out"
    if spec.data.order != POISSON:
        yield f"data.order is {spec.data.order!r}, but only Poisson samples are accounted for; leave it out"
    if spec.schedule != "sync":
        yield "schedule 'async' is not supported; use sync"
    if feedback.renew.on:
        yield "feedback.renew takes feedback from samples, without noise; leave it out"
    if feedback.inside != "exact":
        yield "feedback.inside 'feedback' is not supported, since clipping measures exact gradients; leave it out"
    for key, every in (("ledger", spec.ledger.every), ("probe", spec.probe.every)):
        if every:
            yield f"{key}.every is {every}, but its figures come from samples, without noise; set it to 0"
    for key, codec in (("activations", spec.codec.activations), ("errors", spec.codec.errors)):
        if codec != codecs.LOSSLESS:
            yield f"codec.{key} is {codec!r}, which may round a sample by what is in others; use {codecs.LOSSLESS}"
    if spec.dtype == "bfloat16":
        yield "dtype 'bfloat16' rounds a norm too much to bound a gradient by it; use float32"
    if not spec.check_finite:
        yield "check_finite is off, but no factor clips NaN or infinity; leave it on"
    if spec.engine == "ray" and spec.ray.address and not spec.privacy.seeded:
        yield (
            f"ray.address is {spec.ray.address!r}, and keys would go to the layers over Ray, which may be plain text "
            "between machines; leave it out to train on this one, use engine: serial, or, for a study that is not "
            "private, privacy.seeded"
        )
