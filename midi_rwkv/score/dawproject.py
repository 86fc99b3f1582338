"""Writes a song as a DAWproject (version 1.0, https://github.com/bitwig/dawproject), which several DAWs open.

It is a zip of project.xml and metadata.xml. Each track of the song is a track with one clip, which is as long as the
song and has its notes; its pitch bends, channel pressure and controllers are automation of the track. Tempo and time
signature are the transport's, with automation where they change. Times are in beats, which are quarter notes, and
values from 0 to 1; a bend of 0.5 is none.

Left out, because the format has no place that DAWs agree on: programs, banks and registered parameters, so instruments
are chosen in the DAW; key pressure, texts and system exclusive messages.
"""

from __future__ import annotations

import io
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from .instruments import program_name
from .midi import read_midi
from .score import Score, TimeSignature, Track
from .smf import CONTROL_CHANGE, PITCH_BEND, Event, decoded, read_events, read_layout

CHANNEL_PRESSURE = 0xD0
NOT_PLAYED = frozenset((0, 32, 6, 38, *range(96, 102), *range(120, 128)))  # controllers that choose, or set a mode
DIGITS = 6  # finer than a tick of any file, and than a step of any controller
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the date of both files, so that the same song makes the same bytes


def dawproject(song: bytes, name: str) -> bytes:
    """The .dawproject of a MIDI file.

    Args:
        song: the file's bytes.
        name: the title, and what the song is called in messages.

    Raises:
        MidiError: the file cannot be read.
    """
    score = read_midi(song, name, allow_empty=True)
    metadata = Element("MetaData")
    SubElement(metadata, "Title").text = _text(name)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, root in (("project.xml", _Writing(score, song).project()), ("metadata.xml", metadata)):
            entry = zipfile.ZipInfo(path, LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            ElementTree.indent(root)
            archive.writestr(entry, ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True))
    return out.getvalue()


class _Writing:
    """The elements of one song. Each that others may refer to has an id."""

    def __init__(self, score: Score, song: bytes) -> None:
        self.score, self.layout = score, read_layout(song, score.name)
        self._ids = count()

    def project(self) -> Element:
        root = Element("Project", version="1.0")
        SubElement(root, "Application", name="midi-rwkv", version=_version())
        transport = SubElement(root, "Transport")
        tempos, metres = self._tempos(), self._metres()
        tempo = self._add(transport, "Tempo", name="Tempo", unit="bpm", value=_number(tempos[0][1]))
        metre = self._add(transport, "TimeSignature", **_signature(metres[0]))
        structure = SubElement(root, "Structure")
        master = self._next_id()
        tracks = [self._track(structure, track, master) for track in self.score.tracks]
        bus = self._add(structure, "Track", name="Master", contentType="audio", loaded="true")
        SubElement(bus, "Channel", id=master, role="master", audioChannels="2")
        arrangement = self._add(root, "Arrangement")
        lanes = self._add(arrangement, "Lanes", timeUnit="beats")
        for track, id in zip(self.score.tracks, tracks, strict=True):
            self._lane(lanes, track, id)
        if len(tempos) > 1:
            points = self._points(arrangement, "TempoAutomation", "bpm", parameter=tempo.attrib["id"])
            for tick, value in tempos:
                SubElement(points, "RealPoint", time=self._beats(tick), value=_number(value), interpolation="hold")
        if len(metres) > 1:
            points = self._points(arrangement, "TimeSignatureAutomation", None, parameter=metre.attrib["id"])
            for signature in metres:
                SubElement(points, "TimeSignaturePoint", _signature(signature), time=self._beats(signature.tick))
        return root

    def _tempos(self) -> list[tuple[int, float]]:
        """Ticks and quarter notes per minute, from tick 0 on."""
        later = [(t.tick, t.beats_per_minute) for t in self.score.tempos if t.tick > 0]
        return [(0, self.score.tempo_at(0)), *later]

    def _metres(self) -> Sequence[TimeSignature]:
        """The time signatures, from tick 0 on."""
        found = self.score.time_signatures
        first = self.score.bars[0]
        return found if found and found[0].tick == 0 else (TimeSignature(0, *first[2:]), *found)

    def _track(self, structure: Element, track: Track, master: str) -> str:
        """Adds a track that plays notes, and returns its id."""
        name = _text(track.name) or program_name(track.program, is_drum=track.is_drum)
        added = self._add(structure, "Track", name=name, contentType="notes", loaded="true")
        self._add(added, "Channel", role="regular", audioChannels="2", destination=master)
        return added.attrib["id"]

    def _lane(self, lanes: Element, track: Track, id: str) -> None:
        """Adds what a track plays."""
        lane = self._add(lanes, "Lanes", track=id)
        clips = self._add(lane, "Clips")
        end = max([self.score.bars[-1].end_ticks, *(n.onset_ticks + n.duration_ticks for n in track.notes)])
        clip = SubElement(clips, "Clip", time="0", duration=self._beats(end), playStart="0")
        notes = self._add(clip, "Notes")
        channel = str(track.channel or 0)
        for n in track.notes:
            time, duration = self._beats(n.onset_ticks), self._beats(n.duration_ticks)
            values = {"time": time, "duration": duration, "channel": channel, "key": str(n.pitch)}
            SubElement(notes, "Note", values, vel=_number(n.velocity / 127))
        if track.chunk is None or track.channel is None:
            return
        for target, moves in _controls(read_events(self.layout, track.chunk)[0], track.channel).items():
            points = self._points(lane, "Points", "normalized", channel=channel, **dict(target))
            for tick, value in moves.items():
                SubElement(points, "RealPoint", time=self._beats(tick), value=_number(value), interpolation="hold")

    def _points(self, parent: Element, tag: str, unit: str | None, **target: str) -> Element:
        """Adds an automation of a target, without points yet."""
        points = self._add(parent, tag, timeUnit="beats", **({"unit": unit} if unit else {}))
        SubElement(points, "Target", target)
        return points

    def _add(self, parent: Element, tag: str, **attributes: str) -> Element:
        return SubElement(parent, tag, attributes, id=self._next_id())

    def _next_id(self) -> str:
        return f"id{next(self._ids)}"

    def _beats(self, ticks: int) -> str:
        return _number(ticks / self.score.ticks_per_beat)


def _controls(events: Iterable[Event], channel: int) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
    """What a channel does besides notes: for each target, as attributes, its value from 0 to 1 by tick."""
    found: dict[tuple[tuple[str, str], ...], dict[int, float]] = defaultdict(dict)
    for tick, status, payload, _ in events:
        if status == CONTROL_CHANGE | channel and payload[0] not in NOT_PLAYED:
            target = ("expression", "channelController"), ("controller", str(payload[0]))
            found[target][tick] = payload[1] / 127
        elif status == PITCH_BEND | channel:
            bend = payload[0] | payload[1] << 7
            found[(("expression", "pitchBend"),)][tick] = bend / (0x4000 if bend <= 0x2000 else 0x3FFF)
        elif status == CHANNEL_PRESSURE | channel:
            found[(("expression", "channelPressure"),)][tick] = payload[0] / 127
    return found


def _version() -> str:
    try:
        return version("midi-rwkv")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"


def _signature(signature: TimeSignature) -> dict[str, str]:
    return {"numerator": str(signature.numerator), "denominator": str(signature.denominator)}


def _number(value: float) -> str:
    return f"{value:.{DIGITS}f}".rstrip("0").rstrip(".")


def _text(name: str) -> str:
    """A name that XML can hold."""
    return decoded(name.encode(errors="replace"))
