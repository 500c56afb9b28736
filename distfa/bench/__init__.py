"""Measurements: each benchmark makes one ``Outcome``, a table and the machine on which it was measured."""
