"""``rwp-dist evaluate``: a finished network, and what is left of it when something goes wrong.

::

    asked          what a command line asks for; imports no torch
    targets        and of which runs; likewise
    corruptions    noise, blur, little contrast, strong compression: changed images
    weights        noise on the weights, and weights of few bits
    measure        one network over the evaluation samples, once for each of these
    record         the numbers in the run directory
    report         the numbers on a terminal
    command        the entry: one run after another
"""
