"""Every method of ``METHODS`` through training, resuming, evaluation, library and engine."""

import pytest
from support.methods import METHOD_SETTINGS
from support.properties import (
    assert_evaluating_changes_nothing,
    assert_leaves_generators_alone,
    assert_library_equals_engine,
    assert_replicas_equal,
    assert_restores_exactly,
    assert_resumes_exactly,
    assert_stages_agree,
    assert_zero_strength_is_clean,
)

from rwp_dist.perturb import METHODS

every_method = pytest.mark.parametrize("method", METHOD_SETTINGS)
perturbing = pytest.mark.parametrize("method", [m for m in METHOD_SETTINGS if METHODS[m].move])


def test_the_table_has_every_method():
    assert METHOD_SETTINGS.keys() == METHODS.keys()


@every_method
def test_replicas_are_equal(method):
    assert_replicas_equal(method)


@every_method
def test_zero_stages_agree(method):
    assert_stages_agree(method)


@every_method
def test_a_resumed_run_is_an_undisturbed_one(method, tmp_path):
    assert_resumes_exactly(method, tmp_path)


@every_method
def test_evaluating_changes_nothing(method):
    assert_evaluating_changes_nothing(method)


@every_method
def test_the_library_under_ddp_equals_the_engine(method):
    assert_library_equals_engine(method)


@every_method
def test_strength_0_is_clean(method):
    assert_zero_strength_is_clean(method)


@every_method
def test_global_generators_are_left_alone(method):
    assert_leaves_generators_alone(method)


@perturbing
def test_weights_come_back_to_the_last_bit(method):
    assert_restores_exactly(method)
