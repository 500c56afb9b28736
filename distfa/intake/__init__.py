"""What a user gives becomes layers and samples, or is refused before anything starts."""
