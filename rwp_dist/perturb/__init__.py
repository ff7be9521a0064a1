"""Random weight perturbation: methods, roles, noise, energy. Knows torch, not DeepSpeed."""
