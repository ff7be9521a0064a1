"""Tests that `make check` leaves out, and those that `make test` leaves out too.

On two quiet cores a test of more than about a second and a half is slow. `pytest --durations=40 -m
"not slow"` shows what else should be here.
"""

LONG = (
    "slurm/",
    "benchmarks/",
    "data/image/test_fuzz.py::test_mutants_of_a_minute",
    "data/fuzz/test_formats.py::test_a_manifest_names_what_a_shard_can_be_or_is_refused[long",
    "data/fuzz/test_formats.py::test_a_tar_is_indexed_within_its_bounds_or_refused[long",
    "data/fuzz/test_formats.py::test_an_index_is_whole_or_refused[long",
    "data/fuzz/test_formats.py::test_settings_are_loaded_and_written_or_refused[long",
    "data/fuzz/test_images.py::test_every_decoder_gives_the_same_pixels_or_refuses[long",
    "examples/test_loops.py::test_its_command",
    "test_readme.py::test_readme_typed",
    # Faults that take long to be noticed.
    "data/test_stream.py::test_a_worker_that_never_begins",
    "data/test_stream.py::test_workers_that_never_begin",
    "launcher/test_run.py::test_a_crash_is_tried_again",
    "launcher/test_run.py::test_a_killed_attempt",
    "launcher/test_run.py::test_a_killed_rank",
    "launcher/test_run.py::test_a_second_ctrl_c",
    "launcher/test_run.py::test_ranks_end_with",
    "launcher/test_run.py::test_ranks_that_wait_for",
    "tracking/test_agent.py",
    "tracking/test_wandb.py::test_a_server_that_breaks",
    "tracking/test_wandb.py::test_a_service_that_is_killed",
    "tracking/test_wandb.py::test_rows_that_are_lost",
    "tracking/test_wandb.py::test_rows_that_wandb_gives_up_on",
    "tracking/test_wandb.py::test_whatever_is_killed",
    # A package is downloaded.
    "tracking/test_sinks.py::test_the_real_trackio",
    # The engine with kernels in Triton's interpreter.
    "perturb/test_oracle.py::test_noise_and_energy_of_the_kernels",
    "perturb/normals/test_kernels.py::test_a_replay_is_bit_equal",
)
"""Beginnings of tests' names, from tests/ on. Only `make test-all` runs them."""

SLOW = (
    *LONG,
    # A browser.
    "compare/test_browser.py",
    # Servers of object stores, connections that break.
    "data/remote/test_cache.py::test_a_lasting_fault",
    "data/remote/test_cache_sharing.py",
    "data/remote/test_download.py::test_gs",
    "data/remote/test_download.py::test_s3",
    # Runs with all that belongs to them.
    "config/test_configs.py::test_a_recipe_trains_a_step_on_two_ranks",
    "launcher/test_run.py",
    "launcher/test_refused.py",
    "launcher/test_submit.py",
    "run/test_profiling.py",
    "test_cli.py::test_ctrl_c_while_",
    "test_streaming_run.py",
    "test_train.py::test_a_run_l",
    "tracking/test_alerts.py::test_a_",
    "tracking/test_alerts.py::test_many_bad",
    "tracking/test_alerts.py::test_rank_1",
    "tracking/test_sinks.py",
    "tracking/test_artifacts.py",
    "tracking/test_tell.py",
    "tracking/test_wandb.py",
    "examples/",
    # Groups of ranks, once for each of many cases.
    "flatness/test_command.py",
    "flatness/test_hessian.py::test_eigenvalue",
    "engine/test_engine.py::test_optimizer_state_is_the_same_by_name",
    "evaluation/test_command.py::test_numbers_are",
    "evaluation/test_command.py::test_numbers_of",
    "perturb/moves/test_last_gradient.py::test_a_run_resumes",
    "perturb/moves/test_last_gradient.py::test_all_ranks",
    "perturb/moves/test_last_gradient.py::test_nor_in_the_engine",
    "perturb/test_ahead.py::test_a_run_is_the_same",
    "perturb/test_exceptions.py",
    "perturb/test_methods.py::test_a_resumed",
    "perturb/test_methods.py::test_evaluating",
    *(f"perturb/test_methods.py::test_the_library_under_ddp_equals_the_engine[{m}" for m in "slar"),
    "perturb/test_methods.py::test_zero_stages",
    "perturb/test_replicas.py",
    "perturb/test_skipped_steps.py",
    "perturb/test_statistics.py",
    "record/test_open.py",
    "run/test_checkpoint.py",
    "run/test_progress.py::test_losses_at_clean",
    "run/test_progress.py::test_passes_wait",
    "run/test_progress.py::test_there_is_no_spread",
    "run/test_extras.py",
    "run/test_users_models.py::test_a_run_is",
    "run/test_users_models.py::test_a_users",
    "run/test_users_models.py::test_every_method",
    "run/test_users_models.py::test_ranks",
    "run/test_users_models.py::test_stage_3",
    "run/test_optimizers.py::test_a_run_with_two_groups",
    "run/test_optimizers.py::test_an_optimizer_of_your_own_resumes",
    "run/test_optimizers.py::test_two_groups",
    "run/test_strength.py::test_a_run_r",
    "run/test_strength.py::test_a_run_that_is_clean",
    # Triton's interpreter.
    "perturb/normals/test_kernels.py::test_perturbed_weights_equal_the_formulas",
    "perturb/normals/test_kernels.py::test_rows_slots_and_steps_are_independent",
    "perturb/normals/test_kernels.py::test_the_kernels_compile_to_machine_code",
    "perturb/normals/test_kernels.py::test_values_are_standard_normal",
    # The oracle; of all methods only the cases of one rank and one micro-batch are fast.
    *(
        f"perturb/test_oracle.py::test_{name}"
        for name in (
            "a_padded_last_batch",
            "buckets_of_any_size",
            "every_method_equals_the_oracle_at_stages_0_1_and_2[1-2",
            "every_method_equals_the_oracle_at_stages_0_1_and_2[2",
            "every_method_equals_the_oracle_at_stages_0_1_and_2[3",
            "every_method_equals_the_oracle_under_bf16",
            "every_option_equals",
            "stage_3_equals",
            "the_oracle_tells",
        )
    ),
    # Commands as a user types them, environments of their own.
    "base/test_home.py::test_programs",
    "docker/test_manifests.py::test_wandb",
    "docker/test_places.py",
    "doctor/test_doctor_report.py::test_the_whole",
    "doctor/test_gpus.py::test_a_driver",
    "doctor/test_gpus.py::test_the_probe",
    "run/test_memory.py::test_the_",
    "doctor/test_ranks.py",
    "process/test_meeting.py",
    "doctor/test_speed.py::test_it_is_that_of",
    "launcher/test_diagnosis.py::test_the_agent",
    "launcher/test_light.py",
    "perturb/test_needs.py",
    "perturb/test_perturbed.py::test_importing",
    "perturb/test_perturbed.py::test_the_example",
    "test_cli.py::test_an_err",
    "test_first_minute.py",
    "test_readme.py::test_the_commands",
    "test_train.py::test_a_signal",
    "shards/test_parallel.py",
    "test_train.py::test_every_checkpoint_has",
    "process/test_streams.py::test_a_command",
    "process/test_streams.py::test_arguments",
    # Many processes or epochs of data.
    "data/image/test_fuzz.py::test_mutants",
    "data/image/test_transforms.py::test_equal_in_another",
    *(
        f"data/test_stream.py::test_a_run_stopped_at_any_step_goes_on_elsewhere_twice_as_if_never_stopped[{n}"
        for n in range(1, 10)
    ),
    "data/test_loader.py::test_a_long_tmpdir",
    "data/test_loader.py::test_workers_that_give_nothing",
    "data/test_stream.py::test_global_batches",
    "data/test_stream.py::test_memory",
    "data/test_stream.py::test_worker",
    "shards/test_bad_images.py::test_all_agree_on",
    "shards/test_cifar.py::test_every_image",
    # They wait for what never comes, or are killed.
    "process/test_group.py::test_a_deadlock_is_shown",
    "shards/test_write.py::test_a_call_that_was_killed",
)
"""Likewise; `make check` leaves these out."""
