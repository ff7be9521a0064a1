"""The run directory, which is the record of a run."""
