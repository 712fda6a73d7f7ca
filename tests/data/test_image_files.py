"""Names of results that overwrite nothing."""

import pytest

from segjax.data import image_files


def test_output_names_keep_folders_and_stay_unique(tmp_path):
    files = [tmp_path / name for name in ("a.png", "sub/a.png", "b.jpg", "b.png")]
    assert list(map(str, image_files.output_names(files, tmp_path))) == ["a", "sub/a", "b_jpg", "b_png"]


def test_two_results_of_one_name_and_a_result_over_an_input_are_errors(tmp_path):
    with pytest.raises(ValueError, match="two inputs"):
        image_files.check_targets([], [tmp_path / "a", tmp_path / "a"], (".png",))
    with pytest.raises(ValueError, match="each result must be a new file"):
        image_files.check_targets([tmp_path / "a.png"], [tmp_path / "a"], (".png",))
    image_files.check_targets([tmp_path / "a.png"], [tmp_path / "a"], ("_overlay.png",))


def test_files_are_found_in_a_folder_with_its_subfolders_and_by_a_glob(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.png", "sub/a.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert image_files.find_images(str(tmp_path)) == ([tmp_path / "b.png", tmp_path / "sub/a.jpg"], tmp_path)
    assert image_files.find_images(f"{tmp_path}/sub/*") == ([tmp_path / "sub/a.jpg"], tmp_path / "sub")
    with pytest.raises(ValueError, match="gives none"):
        image_files.find_images(f"{tmp_path}/*.webp")
