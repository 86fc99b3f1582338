"""The player: pitch, time, level; which soundfont it plays, and what is no soundfont."""

import importlib.util
import wave
from types import SimpleNamespace

import numpy as np
import pytest
from soundfonts import sine_font

from midi_rwkv.score.score import Note, Score, Tempo, TimeSignature, Track
from midi_rwkv.sound import soundfont as fonts
from midi_rwkv.sound.soundfont import find_soundfont, load_soundfont
from midi_rwkv.sound.synth import SAMPLE_RATE, render, write_wav

BAR = 1920


@pytest.fixture(scope="module")
def soundfont(tmp_path_factory):
    return sine_font(tmp_path_factory.mktemp("font"))


def song(notes, tempos=()):
    """One track in 4/4."""
    track = Track("Lead", 0, is_drum=False, notes=tuple(notes))
    return Score(480, (track,), (TimeSignature(0, 4, 4),), tuple(tempos), end_ticks=10 * BAR)


def loudest_hz(samples):
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 18))
    return spectrum.argmax() * SAMPLE_RATE / (1 << 18)


@pytest.mark.parametrize(("pitch", "hz"), [(69, 440.0), (81, 880.0), (60, 261.63)])
def test_a_note_sounds_at_its_pitch(soundfont, pitch, hz):
    samples = render(song([Note(0, pitch, BAR, 100)]), (0, 1), soundfont)
    assert samples.dtype == np.float32
    assert loudest_hz(samples) == pytest.approx(hz, rel=0.002)


def test_a_note_starts_and_ends_where_the_tempo_has_it(soundfont):
    tempos = [Tempo(0, 1_000_000), Tempo(BAR, 500_000), Tempo(2 * BAR, 250_000)]
    score = song([Note(0, 69, BAR + 480, 100), Note(2 * BAR, 69, 960, 100)], tempos=tempos)
    samples = render(score, (1, 3), soundfont)
    assert len(samples) == pytest.approx((2 + 1 + 1) * SAMPLE_RATE, abs=2)
    heard = np.flatnonzero(np.abs(samples) > 0.2) / SAMPLE_RATE  # the note from bar 0 is not: it began before
    assert heard[0] == pytest.approx(2, abs=0.02)
    assert heard[-1] == pytest.approx(2.5, abs=0.05)


def test_louder_notes_sound_louder(soundfont):
    samples = render(song([Note(0, 69, 960, 127), Note(960, 69, 960, 64)]), (0, 1), soundfont)
    loud = np.abs(samples[: SAMPLE_RATE // 2]).max()
    soft = np.abs(samples[SAMPLE_RATE * 3 // 2 : SAMPLE_RATE * 19 // 10]).max()
    assert soft / loud == pytest.approx((64 / 127) ** 2, rel=0.05)


def test_a_program_or_kit_that_the_font_lacks_is_played_by_another(soundfont):
    for program, is_drum, length in ((90, False, 480), (25, True, 1)):
        track = Track("", program, is_drum=is_drum, notes=(Note(0, 60, length, 90),))
        assert np.abs(render(Score(480, (track,)), (0, 1), soundfont)).max() == pytest.approx(0.9, abs=0.001)


def test_silence_stays_silence(soundfont):
    samples = render(song([Note(0, 69, 480, 90)]), (20, 22), soundfont)
    assert len(samples) == 5 * SAMPLE_RATE
    assert not samples.any()
    with pytest.raises(ValueError, match=r"bars \[3, 3\)"):
        render(song([]), (3, 3), soundfont)


def test_a_soundfont_is_found_or_the_message_says_what_to_do(tmp_path, monkeypatch, soundfont):
    monkeypatch.setattr(fonts, "FOLDERS", (str(tmp_path / "none"),))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install pretty_midi") as error:
        find_soundfont()
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is no soundfont"):
        find_soundfont(tmp_path / "missing.sf2")
    assert find_soundfont(str(soundfont)) == soundfont
    package = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: package)
    (tmp_path / "TimGM6mb.sf2").touch()
    assert find_soundfont() == tmp_path / "TimGM6mb.sf2"
    monkeypatch.setattr(fonts, "FOLDERS", (str(soundfont.parent),))
    assert find_soundfont() == soundfont


def test_a_file_that_is_no_soundfont_is_refused(tmp_path, soundfont):
    data = soundfont.read_bytes()
    for name, content in {"text": b"x" * 100, "empty": b"", "cut": data[:300]}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="is not an SF2 soundfont"):
            load_soundfont(str(tmp_path / name))
    (tmp_path / "3.sf3").write_bytes(data.replace(b"ifil\4\0\0\0\2", b"ifil\4\0\0\0\3"))
    with pytest.raises(ValueError, match="version 3"):
        load_soundfont(str(tmp_path / "3.sf3"))


def test_tracks_that_are_not_asked_for_are_silent(soundfont):
    assert not render(song([Note(0, 69, 960, 127)]), (0, 1), soundfont, tracks=[1]).any()


def test_a_shared_loudness_keeps_soft_stretches_soft(soundfont):
    soft = render(song([Note(0, 69, 960, 20)]), (0, 1), soundfont, loudness=0.35)
    loud = render(song([Note(0, 69, 960, 127)]), (0, 1), soundfont, loudness=0.35)
    assert np.abs(soft).max() < 0.1 * np.abs(loud).max() < 0.09


def test_a_wav_file_holds_the_samples_and_is_written_whole(tmp_path):
    samples = np.array([0, 0.5, -1, 2], np.float32)
    write_wav(tmp_path / "a.wav", samples, 22050)
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        assert np.frombuffer(file.readframes(4), "<i2").tolist() == [0, 16384, -32767, 32767]
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
