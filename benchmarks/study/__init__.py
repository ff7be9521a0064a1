"""A plain loop in which many ways to perturb weights are compared on small real images."""
