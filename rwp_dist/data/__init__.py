"""Samples and their order: ``digits`` writes some, ``plan`` orders them, ``reader`` reads them."""
