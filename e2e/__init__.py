"""Real clients before the real daemon and a simulated node: `python -m e2e`, not part of CI.

npm, pip and go install the newest versions of the clients into a folder that git ignores, so this
needs these programs and reachable registries.
"""
