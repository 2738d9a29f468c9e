"""Scenes with agents beside the engines, over real processes and the real engine."""
