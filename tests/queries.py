"""The metrics that the example dashboard and alert rules ask for."""

import json
import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).parents[1] / "deploy" / "prometheus"


def expressions():
    """Every query of the dashboard and of the alert rules."""
    board = json.loads((FOLDER / "dashboard.json").read_text())
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return shown + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def queried(prefix):
    """The names that begin so."""
    return {
        name for text in expressions() for name in re.findall(r"\b(?:ray_)?distfa_\w+", text) if name.startswith(prefix)
    }
