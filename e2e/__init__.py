"""Real clients before the real daemon and a simulated node: `python -m e2e`, not part of CI.

The clients are fetched with npm, so this needs Node.js and a reachable npm registry.
"""
