"""Conversations of real clients, rendered by chat templates: is every word shown, in its order?"""
