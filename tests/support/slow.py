"""Tests that `make check` leaves out, and why it is these.

On two quiet cores a test of more than about two seconds is slow. `pytest --durations=40 -m "not
slow"` shows what else should be here.
"""

SLOW = (
    # a Slurm, whole benchmarks, servers of object stores
    *("slurm/", "benchmarks/"),
    *("data/remote/test_download.py::test_s3", "data/remote/test_download.py::test_gs"),
    # runs with all that belongs to them
    *("launcher/test_run.py", "launcher/test_submit.py", "test_streaming_run.py"),
    *("tracking/test_wandb.py", "tracking/test_sinks.py", "run/test_profiling.py"),
    "config/test_configs.py::test_a_recipe_trains_a_step_on_two_ranks",
    "test_cli.py::test_ctrl_c_while_a_run_starts_is_one_line",
    # groups of ranks, once for each of many cases
    *("perturb/test_exceptions.py", "perturb/test_skipped_steps.py", "perturb/test_statistics.py"),
    *("run/test_checkpoint.py", "record/test_open.py", "data/remote/test_cache_sharing.py"),
    *("perturb/test_methods.py::test_a_resumed", "perturb/test_replicas.py"),
    *("run/test_optimizers.py::test_a_run_with_two_groups", "run/test_strength.py::test_a_run_r"),
    "perturb/moves/test_last_gradient.py::test_a_run_resumes",
    # Triton's interpreter
    "perturb/normals/test_kernels.py::test_perturbed_weights_equal_the_formulas",
    "perturb/normals/test_kernels.py::test_a_replay_is_bit_equal_wherever_the_weights_lie",
    "perturb/normals/test_kernels.py::test_values_are_standard_normal",
    "perturb/normals/test_kernels.py::test_rows_slots_and_steps_are_independent",
    "perturb/normals/test_kernels.py::test_the_kernels_compile_to_machine_code",
    # waits for what never comes, or is killed
    "process/test_group.py::test_a_deadlock_is_shown",
    "shards/test_write.py::test_a_call_that_was_killed",
)
"""Beginnings of tests' names, from tests/ on."""
