"""Where and how a run is started. The command line imports no torch."""
