"""Standard normal values by key."""
