"""Signals between layers: messages, links, ports, and the transports that carry them."""
