"""The Python interface: what ``import distfa`` shows."""
