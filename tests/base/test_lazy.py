"""Packages offer names without importing what the names need."""

import subprocess
import sys
from importlib import import_module

import pytest
from test_layers import MODULES, ROOT

LAZY = sorted(
    name
    for name, path in MODULES.items()
    if path.name == "__init__.py" and "lazy_names(" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("package", LAZY)
def test_every_name_that_a_package_offers_is_there(package):
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_importing_a_package_imports_nothing_that_it_offers():
    code = f"import sys, {', '.join(LAZY)}; sys.exit('torch' in sys.modules)"
    assert LAZY
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
