"""What everything stands on: errors, text, files, keys. Imports no torch when imported."""
