"""Refuses what cannot work, before anything starts: checks data and rule against the network, and settings."""

from __future__ import annotations

import math

from distfa.core import rules, schedule
from distfa.core.base.model import Network
from distfa.data import Dataset
from distfa.errors import DataError, SpecError
from distfa.intake.own_parts import check_own_parts
from distfa.intake.start import MOST_RENEWED, check_start
from distfa.intake.subject import Subject
from distfa.settings import RunSpec
from distfa.text.words import human_bytes


def check_run(spec: RunSpec, subject: Subject, dataset: Dataset) -> None:
    """Refuse what cannot work, before anything starts.

    Raises:
        DataError: The data does not fit the network or the loss.
        SpecError: A setting does not fit the others.
    """
    network = subject.network
    check_data(spec, network, dataset)
    check_own_parts(spec, network, dataset)
    check_rule_fits(spec, network)
    check_start(spec, network)
    if not schedule.flows(spec.recipe(network)):
        raise SpecError(
            f"schedule is 'async' with rule {spec.rule!r}, whose errors go from layer to layer, but a step of "
            f"{min(spec.micro_batches, spec.batch_size)} micro-batches cannot keep {len(network)} layers busy; set "
            f"micro_batches to {len(network)} or more (and batch_size no less), or use schedule: sync, or rule: dfa "
            "without feedback.fanout"
        )
    if spec.ray.replicas > 1:
        check_replicas(spec, network)
    if spec.init == "given" and subject.model is None:
        raise SpecError(
            "init is 'given' but there is no model to take weights from; it is for distfa.Trainer(model, ...); "
            "the command line takes 'aligned' and 'random'"
        )


def check_replicas(spec: RunSpec, network: Network) -> None:
    """Refuse what replicas of a layer cannot do, or not yet.

    Raises:
        SpecError: The message says what to set.
    """
    replicas, parts = spec.ray.replicas, min(spec.micro_batches, spec.batch_size)
    if parts < replicas:
        raise SpecError(
            f"ray.replicas is {replicas}, but a batch has a micro-batch for only {parts} of them; set micro_batches to "
            f"{replicas} or more (and batch_size no less)"
        )
    renews, own = rules.build_rule(spec.recipe(network)).ever_renews, "set init to random for a model of your own"
    found = {
        what: fix
        for what, fix, meant in (
            ("the ledger", "set ledger.every to 0", spec.ledger.every),
            ("probes", "set probe.every to 0", spec.probe.every),
            ("feedback that is renewed", f"leave feedback.renew out, and {own}", renews),
            ("private training", "leave privacy out", spec.privacy.on),
            ("optimizer.fold", "leave optimizer.fold out", spec.optimizer.fold),
        )
        if meant
    }
    if found:
        raise SpecError(
            f"ray.replicas is {replicas}, which does not work with {' and '.join(found)} yet; "
            f"{', and '.join(found.values())}"
        )


def check_data(spec: RunSpec, network: Network, dataset: Dataset) -> None:
    """Refuse data that do not fit the network or the loss.

    Raises:
        DataError: They do not fit the network.
        SpecError: They do not fit the loss.
    """
    outputs, positions = network.outputs, network.positions
    if dataset.features != network.sizes[0]:
        raise DataError(
            f"data set {dataset.name!r} has {dataset.features} features per sample, but the first layer takes "
            f"{network.sizes[0]}"
        )
    if (dataset.tokens is not None) != network.tokens:
        takes, has = ("tokens", "numbers") if network.tokens else ("numbers", "tokens")
        raise DataError(f"the first layer takes {takes}, but data set {dataset.name!r} has {has}; make them the same")
    if dataset.classification and math.prod(positions) != dataset.positions:
        raise DataError(
            f"the network gives an answer at {math.prod(positions)} positions of a sample, but data set "
            f"{dataset.name!r} has {dataset.positions} labels per sample; make them equal (classes are the last "
            "axis)"
        )
    if dataset.classification and dataset.outputs > outputs:
        raise DataError(
            f"data set {dataset.name!r} has labels up to {dataset.outputs - 1}, but the last layer has {outputs} "
            f"outputs, for labels 0..{outputs - 1}; {_guess_cause(dataset, outputs)}give it at least "
            f"{dataset.outputs} outputs"
        )
    if not dataset.classification and spec.loss == "cross_entropy":
        raise SpecError(
            "loss is 'cross_entropy' but the targets are floats, not class labels; use loss: mse for quantities, "
            "bce for several labels of 0 or 1, or, for one-hot rows, y.argmax(1)"
        )
    if spec.loss == "bce" and not dataset.classification:
        _check_shares(dataset)
    if spec.class_weights is not None and len(spec.class_weights) != outputs:
        raise SpecError(
            f"class_weights has {len(spec.class_weights)} numbers, but the last layer has {outputs} outputs; give "
            "one number per class, in the order of the labels"
        )
    if not dataset.classification and (positions or dataset.outputs != outputs):
        raise DataError(
            f"targets have {dataset.outputs} columns, but the last layer has outputs of shape {network.shapes[-1]}; "
            "make them equal"
        )


def _check_shares(dataset: Dataset) -> None:
    for name, targets in (("train", dataset.train_y), ("test", dataset.test_y)):
        if targets.size and not (targets.min() >= 0 and targets.max() <= 1):
            wrong = targets[(targets < 0) | (targets > 1)][0]
            raise DataError(
                f"loss is 'bce' but the {name} targets include {wrong:g}; they must be between 0 and 1. Use loss: "
                "mse for quantities"
            )


def _guess_cause(dataset: Dataset, outputs: int) -> str:
    """The likely cause if labels are 1..C."""
    counts_from_one = dataset.outputs == outputs + 1 and int(dataset.train_y.min()) == 1
    return "they start at 1: subtract 1 from them, or " if counts_from_one else ""


def check_rule_fits(spec: RunSpec, network: Network) -> None:
    """Refuse a rule that cannot teach the network.

    Raises:
        SpecError: The message names the layer and what to do.
    """
    rule = rules.RULES[spec.rule]
    if spec.feedback.rank is not None and not network.seeded:
        number = next(n for n in range(1, len(network) + 1) if not network[n].plain)
        raise SpecError(
            f"feedback.rank is {spec.feedback.rank}, which is for networks whose layers are one Linear each, but "
            f"layer {number} is not; leave it out"
        )
    if spec.feedback.active_only and not any(
        network[boundary].rectified and rules.build_rule(spec.recipe(network)).carries_teaching(boundary)
        for boundary in network.boundaries
    ):
        raise SpecError(
            "feedback.active_only is for layers that end in a ReLU, under a rule that sends their teaching "
            f"signal (bp, usf, ...); with rule {spec.rule!r} this network has none; leave it out"
        )
    if spec.feedback.renew.on and network.outputs > MOST_RENEWED:
        size = human_bytes(4 * network.outputs * max(network.sizes[1:-1], default=0))
        raise SpecError(
            f"feedback.renew sends a row for each of the {network.outputs:,} outputs down the layers, up to "
            f"{size} across a boundary, and propagates each separately; it is for at most {MOST_RENEWED:,} "
            "outputs. Leave it out; a rule whose direct feedback learns (see distfa rules) sends nothing extra "
            "for that"
        )
    if rule.follows_shortcuts:
        return
    if rule.is_direct:
        places = network.positions
        for boundary in network.boundaries:
            if network.shapes[boundary][: len(places)] != places:
                raise SpecError(
                    f"rule {spec.rule!r} sends the error of each of {math.prod(places)} positions to the same "
                    f"position of every layer, but layer {boundary} returns {network.shapes[boundary]}; use a "
                    "hop-by-hop rule"
                )
        return
    for number in range(2, len(network) + 1):
        if (unreached := network[number].unreached) and rule.stands_in:
            raise SpecError(
                f"rule {spec.rule!r} replaces every weight with feedback in the backward pass, but "
                f"{unreached[0]!r} of layer {number} is not used directly (its module derives another tensor from "
                "it); use bp or a direct rule, or have the module use the weight itself"
            )
        if (others := network[number].transported) and rule.stands_in:
            raise SpecError(
                f"rule {spec.rule!r} replaces the weights of Linears, Convs and attentions with feedback in the "
                f"backward pass, but {others[0]!r} of layer {number} is not one of those: its error would go back "
                "through the parameter itself, as in bp; use bp or a direct rule"
            )
