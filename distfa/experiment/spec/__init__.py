"""The run spec: everything one can set in a run, validated; YAML in, YAML out."""

from distfa.experiment.spec.explaining import dump
from distfa.experiment.spec.loading import flat, load, parse, parse_change
from distfa.experiment.spec.schema import ARRAYS, GIVEN, MLP, RunSpec

__all__ = ["ARRAYS", "GIVEN", "MLP", "RunSpec", "dump", "flat", "load", "parse", "parse_change"]
