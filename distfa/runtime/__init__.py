"""Layer workers and the coordinator: plain classes, and what puts them on a Ray cluster."""
