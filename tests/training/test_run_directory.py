"""Files of a run directory."""

import pytest

from cocoop.storage.json_files import write_json
from cocoop.training.run_directory import trained_image_hashes


@pytest.mark.parametrize("name", ["images.json", "photos.json"])
def test_training_images_are_known_also_of_runs_of_earlier_versions(name, tmp_path):
    write_json(tmp_path / name, {"sha256": ["a" * 64, "b" * 64]}, with_checksum=True)
    assert trained_image_hashes(tmp_path) == {"a" * 64, "b" * 64}


def test_a_directory_without_a_run_has_no_training_images(tmp_path):
    assert trained_image_hashes(tmp_path) == frozenset()
