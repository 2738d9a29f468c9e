"""The limits of keys, carried out for each request, and what each key has used."""
