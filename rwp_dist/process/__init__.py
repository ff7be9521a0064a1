"""Ranks: their group, what they agree on, signals, a sign of life."""
