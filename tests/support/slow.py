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
    # the oracle of many ranks; one rank and two are fast
    *(
        f"perturb/test_oracle.py::{name}"
        for name in (
            "test_every_method_equals_the_oracle_at_stages_0_1_and_2[3",
            "test_every_method_equals_the_oracle_at_stages_0_1_and_2[2-2",
            "test_every_method_equals_the_oracle_at_stages_0_1_and_2[1-2",
            "test_every_option",
            "test_stage_3",
            "test_a_padded",
            "test_noise_and_energy",
        )
    ),
    *("perturb/test_methods.py::test_zero_stages", "perturb/test_methods.py::test_evaluating"),
    *("perturb/moves/test_last_gradient.py::test_all_ranks", "run/test_extras.py"),
    *("run/test_optimizers.py::test_two_groups", "run/test_strength.py::test_a_run_that_is_clean"),
    *("perturb/test_needs.py", "perturb/test_perturbed.py::test_the_example"),
    # commands as a user types them
    *(
        "test_readme.py::test_the_commands",
        "test_train.py::test_a_signal",
        "test_cli.py::test_an_err",
    ),
    *("launcher/test_light.py", "launcher/test_diagnosis.py::test_the_agent"),
    *(
        "doctor/test_ranks.py",
        "doctor/test_gpus.py::test_a_driver",
        "doctor/test_memory.py::test_the_",
    ),
    *("doctor/test_doctor_report.py::test_the_whole", "docker/test_manifests.py::test_wandb"),
    # many processes or epochs of data
    *("data/image/test_fuzz.py::test_mutants_of_a_minute", "data/test_stream.py::test_memory"),
    *("data/image/test_transforms.py::test_equal_in_another", "data/test_stream.py::test_worker"),
    # waits for what never comes, or is killed
    "data/test_stream.py::test_a_worker_that_never_begins",
    "process/test_group.py::test_a_deadlock_is_shown",
    "shards/test_write.py::test_a_call_that_was_killed",
)
"""Beginnings of tests' names, from tests/ on."""
