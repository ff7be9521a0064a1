"""Random weight perturbation training, from WebDataset shards.

Importing this package imports no torch: settings and command line answer at once.
"""

__version__ = "0.2.0"
