"""The page: its parts, and which event calls what."""

from __future__ import annotations

from typing import Any

import gradio as gr

from midi_rwkv.config import SamplingConfig
from midi_rwkv.instruments import program_name

from .api import add_api
from .desk import NO_STYLE, Desk, style_names
from .piano_roll import piano_roll

EXAMPLES = {"Pop band": "pop_band.mid", "String quartet": "string_quartet.mid", "Piano": "piano.mid"}
TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
KEYS = [
    f"{tonic} {mode}"
    for mode in ("major", "minor")
    for tonic in ["C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"]
]
ADD_TRACK = "Add a track …"
INSTRUMENTS = ["Drums", *(program_name(p, False) for p in range(128))]
FONTS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]  # the reader's own: nothing is fetched
MONO = ["ui-monospace", "Consolas", "monospace"]
CSS = """
.gradio-container { max-width: none !important; padding: 4px 12px !important; --block-info-text-color: #6b7280; }
.dark .gradio-container { --block-info-text-color: #a1a1aa; }
.gradio-container > .main { padding: 16px clamp(0px, 4vw - 16px, 32px) !important; }
.gradio-container { --color-accent: #c2410c; }
.dark .gradio-container, .gradio-container.dark { --color-accent: #f97316; }
.mr-tight { gap: 8px !important; align-items: center; }
.mr-hint { opacity: 0.75; white-space: nowrap; font-size: 12px; min-width: 240px !important; align-self: center; }
footer { display: none !important; }
#mr-away { padding: 6px 12px; background: #b91c1c; color: white; font: 600 13px system-ui, sans-serif; }
body:has(#mr-away) .toast-wrap { display: none; }
"""
EVENT: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AS_SHOWN = """(_, ...others) => {
    const { model } = document.querySelector(".mr-roll").roll;
    const cells = [...model.cells].map((cell) => cell.split(",").map(Number));
    return [JSON.stringify({ cells, chosen: model.chosen }), ...others];
}"""
AT_ONCE: dict[str, Any] = {**EVENT, "queue": False}  # quicker, but cannot say what went wrong


def theme() -> gr.themes.Base:
    """Gradio's own, with a contrast of 4.5:1 or more between a text and what is behind it."""
    base = gr.themes.Default(primary_hue="orange", font=FONTS, font_mono=MONO, spacing_size="sm", text_size="sm")
    red = gr.themes.colors.red
    fills = {
        "button_primary_background_fill": "*primary_700",
        "button_primary_background_fill_hover": "*primary_800",
        "button_cancel_background_fill": red.c700,
        "button_cancel_background_fill_hover": red.c800,
    }
    faint = {"body_text_color_subdued": "*neutral_500", "input_placeholder_color": "*neutral_500"}
    return base.set(**faint, **fills, **{f"{name}_dark": fill for name, fill in fills.items()})


def build(desk: Desk) -> gr.Blocks:
    """The page over a desk."""
    page = gr.Blocks(title="midi-rwkv", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True)
    with page:
        add_api(desk.worker)  # before the page's own events, which would else take its names
        with gr.Tab("Song"):
            style = song_tab(page, desk)
        with gr.Tab("Personalise"):
            style_tab(page, desk, style)
    return page


def song_tab(page: gr.Blocks, desk: Desk) -> gr.Dropdown:
    """Returns the choice of styles, which the other tab adds to."""
    with gr.Row(equal_height=True, elem_classes="mr-tight"):
        file = gr.UploadButton("Open MIDI …", file_types=[".mid", ".midi"], size="sm", min_width=110, scale=0)
        gr.HTML("or drop one on the page. Examples:", elem_classes="mr-hint", scale=0, min_width=240)
        examples = {name: gr.Button(name, size="sm", min_width=100, scale=0) for name in EXAMPLES}
        gr.HTML("", scale=1, min_width=10)
        added = gr.Dropdown(
            [ADD_TRACK, *INSTRUMENTS],
            value=ADD_TRACK,
            elem_id="mr-add",
            show_label=False,
            container=False,
            min_width=170,
            scale=0,
        )
        undo = gr.Button("↶ Undo", elem_id="mr-undo", size="sm", min_width=80, scale=0)
        redo = gr.Button("↷ Redo", elem_id="mr-redo", size="sm", min_width=80, scale=0)
    roll = piano_roll(desk.sound, desk.midi, elem_id="mr-song")
    with gr.Row(elem_classes="mr-tight"):  # enabled and disabled by roll_page.js
        infill = gr.Button("Infill the marked bars", elem_id="mr-infill", variant="primary", size="md", scale=3)
        cancel = gr.Button("Cancel", elem_id="mr-cancel", variant="stop", size="md", scale=1, min_width=90)
        keep = gr.Button("Keep this one", elem_id="mr-keep", size="md", scale=2)
        alike = gr.Button("More like this", elem_id="mr-alike", size="md", scale=2)
    with gr.Row():
        candidates = gr.Slider(1, 8, 3, step=1, label="Candidates", info="answers to choose from")
        temperature = gr.Slider(
            0.3, 1.5, SamplingConfig.temperature, step=0.05, label="Temperature", info="lower: plainer, higher: bolder"
        )
        recall = gr.Slider(0, 1, 1.0, step=0.05, label="Recall", info="of the song's own music; 0: all new")
        style = gr.Dropdown(style_names(), value=NO_STYLE, label="Style", info="learned from your own pieces")
        strength = gr.Slider(0, 1.5, 1.0, step=0.05, label="Strength", info="of the style; 0: without it")
    with gr.Accordion("What the notes should be like", open=False), gr.Row():
        density = gr.Textbox(
            "", label="Notes a bar", placeholder="as it comes; 2-6", info="in each marked track, from-to"
        )
        polyphony = gr.Textbox(
            "", label="Notes at once", placeholder="as it comes; 1-3", info="struck together, from-to"
        )
        pitch_range = gr.Textbox(
            "", label="Range", placeholder="the track's; C3-C6", info="lowest-highest pitch, C4 is middle C"
        )
        key = gr.Dropdown(["any", *KEYS], value="any", label="Key", info="only notes of this scale")
        # A text: Gradio's number makes 0 of an empty one, and JavaScript rounds large ones.
        seed = gr.Textbox("", label="Seed", placeholder="a new one", info="the same seed, the same notes; empty: new")
    settings = [candidates, temperature, recall, style, strength, density, polyphony, pitch_range, key, seed]

    page.load(desk.load, None, roll, **AT_ONCE)
    page.load(lambda: gr.Dropdown(style_names()), None, style, **AT_ONCE)
    file.upload(desk.open_file, file, roll, **EVENT)
    for name, button in examples.items():
        button.click(desk.open_example, gr.State(EXAMPLES[name]), roll, **EVENT)
    roll.mark(desk.mark, None, None, **AT_ONCE)
    roll.lock(desk.toggle_lock, None, None, **AT_ONCE)
    roll.choose(desk.choose, None, None, **AT_ONCE)
    shown = gr.Textbox(visible=False)  # set by AS_SHOWN as the click is sent: what is marked may not be known here yet
    now = {"js": AS_SHOWN, "concurrency_limit": None, **EVENT}
    infill.click(desk.infill, [shown, *settings, gr.State(False)], roll, **now)
    alike.click(desk.infill, [shown, *settings, gr.State(True)], roll, **now)
    cancel.click(desk.stop, None, None, **AT_ONCE)
    keep.click(desk.keep, shown, roll, **now)
    added.input(desk.add_track, added, roll, **EVENT).then(lambda: ADD_TRACK, None, added, **AT_ONCE)
    undo.click(desk.undo, None, roll, **EVENT)
    redo.click(desk.redo, None, roll, **EVENT)
    return style


def style_tab(page: gr.Blocks, desk: Desk, style: gr.Dropdown) -> None:
    """Learn a style from the composer's own files."""
    gr.Markdown("Give it a handful of your own pieces, five or more are best. It takes one to three minutes.")
    with gr.Row():
        with gr.Column(scale=3):
            files = gr.File(
                label="Your MIDI files",
                file_count="multiple",
                elem_id="mr-mine",
                file_types=[".mid", ".midi"],
                height=150,
            )
            read = gr.Dataframe(
                headers=["file", "bars", "notes", "read"],
                label="What was read",
                interactive=False,
                wrap=True,
                column_widths=["30%", "10%", "10%", "50%"],
            )
            with gr.Row():
                name = gr.Textbox("", label="Name of the style", placeholder="mine", max_lines=1)
                overwrite = gr.Checkbox(False, label="Replace a style of that name")
            with gr.Row():
                start = gr.Button("Learn the style", variant="primary", scale=2)
                stop = gr.Button("Stop early", variant="stop", scale=1)
        with gr.Column(scale=3):
            told = gr.Markdown("", elem_id="mr-told")
            curve = gr.LinePlot(
                None,
                x="step",
                y="nats a note",
                title="Loss on bars that are held out: lower is closer to you",
                height=240,
                label="",
                visible=False,  # it cannot draw nothing
            )
            hear = gr.Button("Hear the same bars before and after")
            before = gr.Audio(label="without the style", interactive=False, buttons=[])
            after = gr.Audio(label="with the style", interactive=False, buttons=[])
    desk_files = [files, name, overwrite]
    files.change(desk.read_pieces, files, read, **AT_ONCE)
    start.click(desk.learn, desk_files, [told, curve, style], concurrency_limit=None, **EVENT)
    stop.click(desk.stop_learning, None, None, **AT_ONCE)
    hear.click(desk.hear, [files, name], [before, after], concurrency_limit=None, api_visibility="private")
