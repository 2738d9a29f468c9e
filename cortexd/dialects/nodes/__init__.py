"""How nodes speak: their streams, answers, errors, listings and orders."""
