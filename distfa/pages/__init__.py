"""The page kit: what every HTML page is made of."""
