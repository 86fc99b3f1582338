// Dragging out of the page: the song, a track or a candidate's bars land in a DAW or a folder as a MIDI file.

// `part` gives what the file's name ends with, and the query of its address (see parts.py), or null if there is nothing.
function dragsOut(handle, part) {
  handle.draggable = true;
  handle.addEventListener("dragstart", (event) => {
    const wanted = model.song && !serverSide.away ? part() : null;
    if (!wanted) {
      event.preventDefault();
      return;
    }
    const [ending, query] = wanted;
    const name = `${model.song.name.replace(/\.[^.]*$/, "")}-${ending}.mid`.replace(/[^\p{L}\p{N} ()._-]|^\.+/gu, "_");
    const url = new URL(`parts/${window.midiRwkvTab}/${encodeURIComponent(name)}${query}`, document.baseURI).href;
    event.dataTransfer.setData("DownloadURL", `audio/midi:${name}:${url}`); // Chromium fetches it where it is dropped
    event.dataTransfer.setData("text/uri-list", url);
    event.dataTransfer.effectAllowed = "copy";
  });
}

const songPart = () => ["infill", ""];

// The server has the candidates once all of them are written.
function candidatePart(number) {
  return model.running ? null : [number < 0 ? "as it was" : `candidate ${number + 1}`, `?candidate=${number}`];
}
