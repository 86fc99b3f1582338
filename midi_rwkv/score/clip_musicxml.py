"""Some measures of some parts of a MusicXML document, as a document of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from xml.etree.ElementTree import Element, SubElement

from .heard import tempo_of
from .musicxml import DECLARATION, Document, Part, text_of

# What holds until it is said anew, in the order of the schema.
LASTING = ("divisions", "key", "time", "staves", "part-symbol", "instruments", "clef", "staff-details", "transpose")


def clipped(document: Document, parts: Iterable[int], span: tuple[int, int]) -> bytes:
    """The measures of a half-open span. Each part begins with what holds there: its key, clef and metre, the tempo."""
    root = Element("score-partwise", version="4.0")
    listed = SubElement(root, "part-list")
    tempo = _tempo(document.parts, span[0])
    for k, part in enumerate(document.parts[p] for p in parts):
        listed.append(part.head)
        measures = [measure.element for measure in part.measures[slice(*span)]]
        _open(measures[0], _lasting(part, span[0]), None if k else tempo)
        SubElement(root, "part", id=part.key).extend(measures)
    return DECLARATION + text_of(root)


def _lasting(part: Part, first: int) -> dict[tuple[str, str], Element]:
    """By tag and number, what attributes before a measure say that still holds."""
    found: dict[tuple[str, str], Element] = {}
    for measure in part.measures[:first]:
        for element in measure.element.iterfind("attributes/*"):
            if element.tag in LASTING:
                found[element.tag, element.get("number", "")] = element
    return found


def _tempo(parts: Sequence[Part], first: int) -> Element | None:
    """The last mark of a tempo before a measure."""
    marks = [e for part in parts for m in part.measures[:first] for e in m.element if tempo_of(e)]
    return marks[-1] if marks else None


def _open(measure: Element, lasting: dict[tuple[str, str], Element], tempo: Element | None) -> None:
    """Makes a measure the first one."""
    own = measure.find("attributes")
    before_it = [] if own is None else list(measure)[: list(measure).index(own)]
    if own is None or any(e.tag in ("note", "backup", "forward") for e in before_it):
        own = Element("attributes")
        measure.insert(0, own)
    there = {(e.tag, e.get("number", "")) for e in own}
    children = [*own, *(deepcopy(e) for key, e in lasting.items() if key not in there)]
    order = {tag: k for k, tag in enumerate(LASTING)}
    own[:] = sorted(children, key=lambda e: order.get(e.tag, order["divisions"]))
    if tempo is not None and not any(tempo_of(e) for e in measure):
        measure.insert(list(measure).index(own) + 1, deepcopy(tempo))
