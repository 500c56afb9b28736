"""Measurements: each benchmark makes one ``Outcome``, a table with the machine it was made on."""
