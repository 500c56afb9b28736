"""Layer workers and the coordinator: plain classes; actors.py alone knows Ray."""
