"""The run spec: everything one can set in a run, validated; YAML in, YAML out."""

from distfa.settings.explaining import dump
from distfa.settings.loading import flat, load, parse, parse_change
from distfa.settings.schema import ARRAYS, GIVEN, MLP, RunSpec

__all__ = ["ARRAYS", "GIVEN", "MLP", "RunSpec", "dump", "flat", "load", "parse", "parse_change"]
