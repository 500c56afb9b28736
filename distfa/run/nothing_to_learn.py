"""Finds data in which every answer is the same: a network is right without learning, and its figures say nothing."""

from __future__ import annotations

import numpy as np

from distfa.data import Dataset
from distfa.run.collapse import NOTHING, Finding
from distfa.run.constant_answer import label_shares


def nothing_to_learn(dataset: Dataset) -> list[Finding]:
    """A finding where all training labels, or all training targets, are the same."""
    targets = dataset.train_y
    if not targets.size or _differ(dataset):
        return []
    if dataset.classification:
        label = int(targets[np.arange(1)].flat[0])
        same = (
            f"all {targets.size:,} training labels are {dataset.class_names[label] if dataset.class_names else label}"
        )
    else:
        same = f"all {len(targets):,} training targets are the same"
    text = f"{same}, so a constant answer is always right, and the figures mean nothing"
    advice = "check how they are made, or use data with at least two different answers"
    return [Finding(finding=NOTHING, step=0, text=text, advice=advice)]


def _differ(dataset: Dataset) -> bool:
    targets = dataset.train_y
    return len(label_shares(targets)) > 1 if dataset.classification else bool((targets != targets[0]).any())
