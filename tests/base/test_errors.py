import pickle

from rwp_dist.base.errors import ConfigError, RwpError


def test_an_error_has_its_key_and_its_cure_as_fields_and_in_its_text() -> None:
    error = ConfigError("there is no model 'resnet5'", key="model.name", cure="use resnet50")
    assert (error.key, error.cure) == ("model.name", "use resnet50")
    assert str(error) == "model.name: there is no model 'resnet5'; use resnet50."
    assert str(RwpError("All is lost.")) == "All is lost."


def test_an_error_survives_its_way_to_another_rank() -> None:
    error = ConfigError("too large", key="batch.global", cure="lower it")
    error.shared = True
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ConfigError and str(copy) == str(error)
    assert (copy.key, copy.cure, copy.shared) == ("batch.global", "lower it", True)
