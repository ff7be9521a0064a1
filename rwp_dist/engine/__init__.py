"""Gradients, updates and clean weights. The only folder that knows DeepSpeed.

``engine.Engine`` is what a run calls; another engine is a class with the same public methods.
"""
