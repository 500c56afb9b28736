"""Words, lines, JSON: text for people and programs. Imports nothing else of distfa."""
