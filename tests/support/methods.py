"""Every method with settings under which it matters on the small network."""

METHOD_SETTINGS: dict[str, tuple[str, ...]] = {
    "sgd": (),
    "sam": ("method.rho=0.3",),
    "asam": ("method.rho=0.3",),
    "rwp": ("method.sigma=0.05", "method.sigma_increase=2"),
    "arwp": ("method.sigma=0.05", "method.sigma_increase=2", "method.eta=20", "method.beta=0.7"),
    "m-rwp": ("method.sigma=0.05", "method.lambda=0.3"),
    "m-arwp": ("method.sigma=0.05", "method.lambda=0.3", "method.eta=20", "method.beta=0.7"),
    "last-sam": ("method.rho=0.3",),
}
"""A new method gets a line here, and with it the tests of ``tests/perturb/test_methods.py``."""


def overrides(method: str, *more: str) -> tuple[str, ...]:
    """Settings of a method for ``small_settings``."""
    return (f"method.name={method}", *METHOD_SETTINGS[method], *more)
