"""The run spec: everything one can set in a run, validated; YAML in, YAML out."""

from distfa.settings.explaining import dump_spec
from distfa.settings.loading import amend, flat, load_spec, parse_change, parse_spec
from distfa.settings.schema import ARRAYS, GIVEN, MLP, RunSpec

__all__ = ["ARRAYS", "GIVEN", "MLP", "RunSpec", "amend", "dump_spec", "flat", "load_spec", "parse_change", "parse_spec"]
