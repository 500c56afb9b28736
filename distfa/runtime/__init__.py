"""Layer workers and the coordinator as plain classes, and the code that puts them on a Ray cluster."""
