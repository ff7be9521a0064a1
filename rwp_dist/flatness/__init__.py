"""``rwp-dist flatness``: how flat the loss is around the weights of finished runs.

A diagnosis, never the headline: sharpness and generalisation are known to part ways.
"""
