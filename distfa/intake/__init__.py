"""Turns a user's models and data into layers and samples, or refuses them before anything starts."""
