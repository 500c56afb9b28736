"""What a user brings from outside the package, found by name."""
