"""Gradients, updates and clean weights. The only folder that knows DeepSpeed."""
