from pathlib import Path

import pytest

from rwp_dist.base.errors import ConfigError
from rwp_dist.base.named import load_named


def test_a_function_is_found_by_module_and_name() -> None:
    assert load_named("pathlib:Path", key="model.name") is Path


def test_a_module_of_the_working_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_nets.py").write_text("def tiny(): return 7\n")
    monkeypatch.chdir(tmp_path)
    assert load_named("my_own_nets:tiny", key="model.name")() == 7


@pytest.mark.parametrize("name", ["pathlib", "no_such_module:f", "pathlib:no_such", "os:sep", ":f"])
def test_what_names_no_function_is_refused_with_its_key(name: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_named(name, key="model.name")
    assert refused.value.key == "model.name" and refused.value.cure
