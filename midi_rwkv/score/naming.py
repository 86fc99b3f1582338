"""How a part of a MusicXML document names notes: pitches as written for its instrument, hits by its drum kit."""

from __future__ import annotations

from copy import deepcopy
from xml.etree.ElementTree import Element, SubElement

from .engrave import Name, Tone, pitch_element
from .heard import Played, instruments_of
from .musicxml import Manner
from .smf import DRUM_CHANNEL

# By MIDI pitch, drums as they are called and where they are written; lower-case letters get a cross.
DRUMS = {35: "Acoustic Bass Drum F4", 36: "Bass Drum F4", 37: "Side Stick c5", 38: "Snare C5", 39: "Hand Clap C5"}
DRUMS |= {40: "Electric Snare C5", 41: "Low Floor Tom A4", 42: "Closed Hi-Hat g5", 43: "High Floor Tom A4"}
DRUMS |= {44: "Pedal Hi-Hat d4", 45: "Low Tom D5", 46: "Open Hi-Hat g5", 47: "Low-Mid Tom D5", 48: "High-Mid Tom E5"}
DRUMS |= {49: "Crash a5", 50: "High Tom E5", 51: "Ride f5", 52: "Chinese Cymbal a5", 53: "Ride Bell f5"}
DRUMS |= {54: "Tambourine C5", 55: "Splash a5", 56: "Cowbell C5", 57: "Crash 2 a5", 59: "Ride 2 f5"}


class Names:
    """Names the notes of a part. A drum that it lacks becomes another instrument of its `<score-part>`."""

    def __init__(self, played: Played) -> None:
        self.part, self.is_drum, self.has_grown = played.part, played.is_drum, False
        self._hits: dict[int, Name] = {}
        for note in reversed(played.notes if played.is_drum else ()):
            element = note.elements[0][1]
            pitch = element.find("unpitched")
            pitch = element.find("pitch") if pitch is None else pitch
            if pitch is not None:
                self._hits[note.pitch] = Name(pitch, element.find("instrument"), element.find("notehead"))

    def of(self, tone: Tone, staff: int, manner: Manner) -> Name:
        """The elements that say which note a tone is."""
        if not self.is_drum:
            return Name(pitch_element(tone.pitch - manner.shift(staff), manner.fifths))
        if tone.pitch not in self._hits:
            self._hits[tone.pitch] = self._hit(tone.pitch)
        return deepcopy(self._hits[tone.pitch])

    def _hit(self, pitch: int) -> Name:
        called, _, place = DRUMS.get(pitch, f"Drum {pitch} C5").rpartition(" ")
        unpitched = Element("unpitched")
        SubElement(unpitched, "display-step").text = place[0].upper()
        SubElement(unpitched, "display-octave").text = place[1]
        notehead = None
        if place[0].islower():
            notehead = Element("notehead")
            notehead.text = "x"
        kit = instruments_of(self.part)
        key = next((key for key, instrument in kit.items() if instrument.unpitched == pitch), None)
        return Name(unpitched, Element("instrument", id=key or self._new_instrument(pitch, called)), notehead)

    def _new_instrument(self, pitch: int, called: str) -> str:
        """Adds an instrument to the part, and returns its id."""
        head, key = self.part.head, f"{self.part.key}-I{pitch + 1}"
        while any(element.get("id") == key for element in head):
            key += "x"
        instrument, midi = Element("score-instrument", id=key), Element("midi-instrument", id=key)
        SubElement(instrument, "instrument-name").text = called
        SubElement(midi, "midi-channel").text = str(DRUM_CHANNEL + 1)
        SubElement(midi, "midi-unpitched").text = str(pitch + 1)
        after = [k for k, e in enumerate(head, 1) if e.tag in ("player", "midi-device", "midi-instrument")]
        head.insert(after[-1] if after else len(head), midi)
        before = [k for k, e in enumerate(head, 1) if e.tag == "score-instrument"]
        head.insert(before[-1] if before else list(head).index(midi), instrument)
        self.has_grown = True
        return key
