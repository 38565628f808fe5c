"""Which tests are ``long``: ``make test`` leaves them out, ``make test-all`` runs them.

Cases of a law that shorter cases hold too, by the name of the test and of the case, where ``*`` stands for anything.
Of every law at least one case is short: :func:`mark` refuses a test all of whose cases would be long, unless it is in
WHOLE, with the shorter test of the same law. A name that no test has is refused where its whole file is collected.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import pytest

CASES: dict[str, tuple[str, ...]] = {
    "data/test_preparation.py": ("test_the_memory_does_not_grow_with_the_number_of_images[at once]",),
    "data/test_yardsticks.py": (
        "test_noise_cannot_be_compressed_and_a_constant_can[256-1]",
        "test_noise_cannot_be_compressed_and_a_constant_can[256-3]",
        "test_noise_cannot_be_compressed_and_a_constant_can[256-4]",
        "test_noise_cannot_be_compressed_and_a_constant_can[17-4]",
    ),
    "estimators/test_multiple.py": (
        "test_what_is_far_apart_is_found[50-*]",
        "test_false_verdicts_are_rare[50-*-correlated]",
        "test_false_verdicts_are_rare[50-*-heavy]",
        "test_false_verdicts_are_rare[50-*-skewed]",
        "test_false_verdicts_are_rare[9-359-*-correlated]",
        "test_false_verdicts_are_rare[9-359-*-heavy]",
        "test_false_verdicts_are_rare[9-359-*-skewed]",
    ),
    "init/test_wheel.py": ("test_the_wheel_works_outside_of_the_repository",),
    "models/test_conv_vae.py": (
        "test_weights_average_to_the_mass[conv-vae-coupled-rgb]",
        "test_weights_average_to_the_mass[conv-vae-grey]",
    ),
    "models/test_every_model.py": ("test_samples_follow_the_masses[conv-vae-coupled-rgb]",),
    "models/test_flows.py": (
        "test_weights_average_to_the_mass_of_the_cell[realnvp-plane]",
        "test_samples_follow_the_masses[realnvp-plane]",
    ),
    "models/test_sampling.py": ("test_the_cache_saves_work[pixelcnn_pp-*-coupled_logistic]",),
    "models/test_vae.py": (
        "test_weights_average_to_the_mass[3-logistic-2-*]",
        "test_weights_average_to_the_mass[3-normal-1-2]",
        "test_the_doubly_reparameterized_gradient_has_the_same_mean[1]",
        "test_the_doubly_reparameterized_gradient_has_the_same_mean[64]",
    ),
    "recipes/test_experiments.py": (
        "test_a_recipe_that_runs_from_the_queue_is_not_run_again",
        "test_a_wrong_setting_is_refused_before_anything_starts[flags1]",
        "test_no_result_that_is_not_there_is_offered",
    ),
    "runtime/test_accelerator.py": (
        "test_annealing_keeps_to_its_device[vae-bernoulli]",
        "test_annealing_keeps_to_its_device[conv-vae-coupled-rgb]",
    ),
    "runtime/test_blocks.py": ("test_sharded_is_the_same_bit_for_bit[4]",),
    "runtime/test_full_disk.py": ("test_a_disk_that_is_really_full",),
    "runtime/test_killed.py": (
        "test_killed_at_any_moment_the_bytes_are_the_same[train]",
        "test_killed_at_any_moment_the_bytes_are_the_same[evaluate]",
        "test_killed_at_any_moment_the_bytes_are_the_same[evaluate once]",
    ),
    "studies/known/test_mistakes.py": ("test_other_images_run_through[colour]",),
    "studies/test_density_and_mass.py": (
        "test_no_levels_overflow[one that has almost all-*]",
        "test_no_levels_overflow[many levels-0.1]",
        "test_no_levels_overflow[rare levels-0.1]",
    ),
    "test_fuzz.py": (
        "test_any_file_validates_or_is_refused_in_a_sentence[many]",
        "test_every_value_in_every_place_is_taken_or_refused_by_its_key[all]",
    ),
    "test_reruns.py": ("test_an_edit_reruns_what_it_can_change[all]",),
    "training/test_optimization.py": (
        "test_a_compiled_objective_is_the_same",
        "test_what_is_traced_is_the_same[conv_vae-*]",
        "test_what_is_traced_is_the_same[flow-*]",
        "test_heads_and_log_weights_are_of_float32[pixelcnn_pp-categorical]",
        "test_heads_and_log_weights_are_of_float32[pixelcnn_pp-logistic]",
        "test_heads_and_log_weights_are_of_float32[pixelcnn_pp-normal]",
        "test_a_step_waits_for_nothing[pixelcnn_pp-dynamic]",
    ),
    "training/test_training.py": (
        "test_training_learns[flow]",
        "test_training_learns[gated_pixelcnn]",
        "test_training_learns[pixelcnn_pp]",
        *(
            f"test_an_interrupted_run_ends_with_the_same_bytes[{model}-{step}]"
            for model in ("pixelcnn", "gated_pixelcnn", "pixelcnn_pp", "flow", "realnvp")
            for step in (1, 5, 8, 14)
        ),
    ),
}
WHOLE = {
    "test_a_disk_that_is_really_full": "test_the_last_good_checkpoint_stays",
    "test_a_recipe_that_runs_from_the_queue_is_not_run_again": "test_a_queued_recipe_is_collected_when_it_has_run",
    "test_no_result_that_is_not_there_is_offered": "test_changed_parameters_never_pass_for_the_recipe",
    "test_the_wheel_works_outside_of_the_repository": "test_the_files_are_those_of_the_repository",
    "test_a_compiled_objective_is_the_same": "test_what_is_traced_is_the_same",
}


def mark(items: Iterable[pytest.Item], are_chosen: bool) -> None:
    """Mark the long ones.

    Args:
        items: what was collected.
        are_chosen: whether some tests of a file may not have been collected.
    """
    by_file, tests = defaultdict[str, list[pytest.Item]](list), defaultdict[str, set[bool]](set)
    for item in items:
        by_file[item.nodeid.split("::")[0].removeprefix("tests/")].append(item)
    for file, patterns in CASES.items():
        for pattern in patterns:
            whole = re.compile(re.escape(pattern).replace(r"\*", ".*") + ("" if "[" in pattern else r"(\[.*)?"))
            found = [item for item in by_file.get(file, []) if whole.fullmatch(item.name)]
            if by_file.get(file) and not found and not are_chosen:
                raise pytest.UsageError(f"tests/support/long_cases.py: {file} has no test {pattern}")
            for item in found:
                item.add_marker(pytest.mark.long)
    for item in items:
        tests[item.nodeid.split("[")[0]].add(item.get_closest_marker("long") is None)
    for test, are_short in tests.items():
        if True not in are_short and test.split("::")[-1] not in WHOLE and not are_chosen:
            raise pytest.UsageError(f"tests/support/long_cases.py: no case of {test} is short")
