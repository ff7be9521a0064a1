"""Shards elsewhere: fetched, checked, kept."""
