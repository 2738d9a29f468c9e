"""How real clients get onto this machine: the newest versions, by their ordinary installers."""
