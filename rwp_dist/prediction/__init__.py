"""``rwp-dist predict``: what the network of a run sees in images of any place.

::

    images     which images are meant
    reader     their batches
    command    the entry: a line of JSON for each image
"""
