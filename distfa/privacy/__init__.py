"""What private training needs besides the mathematics: the accountant, the secret key and the numbers drawn from it."""
