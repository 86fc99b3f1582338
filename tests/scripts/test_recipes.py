"""The recipes of docs/infill.md: the commands are real ones, and their pictures are those of the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from midi_rwkv.commands.parser import build_parser

PAGE = Path(__file__).parents[2] / "docs" / "infill.md"
PICTURE_BYTES = 30_000


@pytest.fixture(scope="module")
def recipes(script):
    return script("script_helpers.recipes").read_recipes(PAGE)


def test_there_are_ten_recipes_with_a_small_picture_each(recipes):
    assert len({recipe.picture for recipe in recipes}) == len(recipes) == 10
    pictures = [PAGE.parent / recipe.picture for recipe in recipes]
    assert {path.name for path in pictures} == {path.name for path in (PAGE.parent / "recipes").iterdir()}
    for path in pictures:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size <= PICTURE_BYTES, path.name


def test_every_command_is_read_names_a_seed_and_fits_its_song(script, recipes):
    helper = script("script_helpers.recipes")
    for recipe in recipes:
        assert recipe.commands
        for arguments in recipe.commands:
            options = build_parser().parse_args(arguments)
            assert options.seed is not None
            score = helper.read_midi(helper.SONGS / options.song)
            assert helper.parse_places(options.bars, score).bars


def test_a_picture_has_what_was_and_what_each_command_wrote(script, checkpoint_folder, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    commands = [
        f"midi-rwkv infill pop_band.mid --bars 20.3-20.4 --tracks Bass{o} --seed 1" for o in ("", " --vary 0.5")
    ]
    page.write_text("\n".join(["# A page", "", "## Recipe", "```sh", *commands, "```", "![x](made/bass.png)", ""]))
    helper, pictures = script("script_helpers.recipes"), script("pictures")
    [recipe] = helper.read_recipes(page)
    panels = helper.panels_of(recipe, ["--checkpoint", str(checkpoint_folder)])
    assert [panel.caption for panel in panels] == ["before", "after", "after --vary 0.5"]
    assert {t for panel in panels for t, _ in panel.marked} == {1}
    before = helper.notes_of(panels[0].score)
    for panel in panels[1:]:
        assert panel.marked == helper.notes_of(panel.score) - before
        assert before - helper.notes_of(panel.score) <= panels[0].marked
    monkeypatch.setattr("sys.argv", ["pictures.py", "recipes", str(page), "--checkpoint", str(checkpoint_folder)])
    pictures.main()
    assert (tmp_path / "made" / "bass.png").read_bytes().startswith(b"\x89PNG")


def test_a_command_that_fails_is_named(script):
    with pytest.raises(RuntimeError, match=r"infill pop_band\.mid --bars 900 failed"):
        script("script_helpers.recipes").run(["infill", "pop_band.mid", "--bars", "900"])
