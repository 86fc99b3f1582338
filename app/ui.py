"""The page: its components, and the handlers of their events."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import gradio as gr

from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.instruments import program_name
from midi_rwkv.score.musicxml import SUFFIXES

from .api import add_api
from .desk import ADD_TRACK, AS_FILE, TAKE_FOR, Desk, style_names
from .fills import ANY_KEY, FIELDS, KEEP_NOTHING, LABELS, NO_STYLE
from .piano_roll import piano_roll
from .style_desk import StyleDesk
from .taste_desk import TasteDesk

EXAMPLES = {"Pop band": "pop_band.mid", "String quartet": "string_quartet.mid", "Piano": "piano.mid"}
TONICS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
KEYS = [f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS]
INSTRUMENTS = ["Drums", *(program_name(p) for p in range(128))]
FONTS = ["system-ui", "-apple-system", "Segoe UI", "sans-serif"]  # the reader's own fonts: nothing is fetched
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
ENTER_TAB = (files(__package__) / "roll_tab.js").read_text(encoding="utf-8")
RENAME_TAB = "(tab) => { window.midiRwkvTab = tab; }"
IN_TAB: dict[str, Any] = {"js": "(_, ...others) => [window.midiRwkvTab, ...others]", **EVENT}
AS_SHOWN = """(_tab, _shown, ...others) => {
    const { model } = document.querySelector(".mr-roll").roll;
    const cells = [...model.cells].map((cell) => cell.split(",").map(Number));
    return [window.midiRwkvTab, JSON.stringify({ cells, chosen: model.chosen }), ...others];
}"""
IN_SONG: dict[str, Any] = {"js": AS_SHOWN, **EVENT}
AT_ONCE: dict[str, Any] = {"queue": False}  # faster, but cannot report errors


def theme() -> gr.themes.Base:
    """Gradio's own theme, with a contrast of at least 4.5:1 between text and background."""
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
    """Builds the page for a desk."""
    page = gr.Blocks(title="midi-rwkv", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True)
    with page:
        add_api(desk.worker)  # before the page's own events, which would otherwise take its names
        with gr.Tab("Song"):
            style = song_tab(page, desk)
        with gr.Tab("Personalise") as personalise:
            style_tab(StyleDesk(desk.worker, desk.soundfont), style)
            taste_section(page, personalise, desk.taste)
    return page


def song_tab(page: gr.Blocks, desk: Desk) -> gr.Dropdown:
    """Builds the tab of the song. Returns the choice of styles, which the other tab extends."""
    with gr.Row(equal_height=True, elem_classes="mr-tight"):
        file = gr.UploadButton(
            "Open MIDI …", file_types=[".mid", ".midi", *SUFFIXES], size="sm", min_width=110, scale=0
        )
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
        more = gr.Button("More like this", elem_id="mr-alike", size="md", scale=2)
        star = gr.Button("Star", elem_id="mr-star", size="md", scale=1, min_width=90)
        throw = gr.Button("Throw away", elem_id="mr-throw", size="md", scale=1, min_width=110)
    with gr.Row():
        settings = _drawing()
    with gr.Accordion("What the notes should be like", open=False) as wishes:
        with gr.Row():
            settings += _limits()
            track = gr.Dropdown([], value=None, label="Take track", info="of the song's file", elem_id="mr-take")
            instrument = gr.Dropdown(
                [TAKE_FOR, AS_FILE, *INSTRUMENTS],
                value=TAKE_FOR,
                label="for",
                info="the file keeps its own",
                elem_id="mr-take-for",
            )
        with gr.Row():
            settings += _wishes()
    style: gr.Dropdown = settings[FIELDS.index("style")]

    tab, shown = gr.Textbox(visible=False), gr.Textbox(visible=False)  # set by IN_TAB and AS_SHOWN when a call is sent
    is_running = gr.Textbox(visible=False)
    began = page.load(desk.load, tab, [roll, tab, is_running, *settings], js=ENTER_TAB, **EVENT, **AT_ONCE)
    began.then(None, tab, None, js=RENAME_TAB, **EVENT)
    began.then(desk.follow, [tab, is_running], roll, concurrency_limit=None, **EVENT)
    file.upload(desk.open_file, [tab, file], roll, **IN_TAB)
    for name, button in examples.items():
        button.click(desk.open_example, [tab, gr.State(EXAMPLES[name])], roll, **IN_TAB)
    roll.mark(desk.mark, tab, None, **IN_TAB, **AT_ONCE)
    roll.lock(desk.toggle_lock, tab, None, **IN_TAB, **AT_ONCE)
    roll.choose(desk.choose, tab, None, **IN_TAB, **AT_ONCE)
    for setting in settings:
        setting.input(desk.remember, [tab, *settings], None, trigger_mode="always_last", **IN_TAB, **AT_ONCE)
    for button, fill in ((infill, desk.infill), (more, desk.infill_alike)):
        button.click(fill, [tab, shown, *settings], roll, concurrency_limit=None, **IN_SONG)
    cancel.click(desk.stop, tab, None, **IN_TAB, **AT_ONCE)
    acts = {keep: desk.keep, star: desk.star, throw: desk.throw_away, undo: desk.undo, redo: desk.redo}
    for button, act in acts.items():
        button.click(act, [tab, shown], roll, **IN_SONG)
    for look in (wishes.expand, track.focus):
        look(desk.tracks, [tab, track], track, **IN_TAB)
    take = instrument.input(desk.take, [tab, shown, track, instrument], roll, **IN_SONG)
    take.then(lambda: TAKE_FOR, None, instrument, **EVENT).then(desk.tracks, [tab, track], track, **IN_TAB)
    added.change(desk.add_track, [tab, shown, added], roll, **IN_SONG).then(lambda: ADD_TRACK, None, added, **EVENT)
    return style


def _drawing() -> list[Any]:
    """The first of `FIELDS`: how many candidates, and how they are drawn."""
    return [
        gr.Slider(1, 8, 3, step=1, label=LABELS["candidates"], info="answers to choose from"),
        gr.Slider(
            0.3,
            1.5,
            SamplingConfig.temperature,
            step=0.05,
            label=LABELS["temperature"],
            info="lower: plainer, higher: bolder",
        ),
        gr.Slider(0, 1, 1.0, step=0.05, label=LABELS["follow"], info="how far its own bars lead; 0: not at all"),
        gr.Dropdown(style_names(), value=NO_STYLE, label=LABELS["style"], info="learned from your own pieces"),
        gr.Slider(0, 1, 1.0, step=0.05, label=LABELS["strength"], info="of what was learned; 0: none"),
        gr.Slider(0, 1, 1.0, step=0.05, label=LABELS["memory"], info="of your pieces; 0: none"),
    ]


def _limits() -> list[Any]:
    """The next of `FIELDS`: how many notes, which, and the seed."""
    return [
        gr.Textbox("", label=LABELS["density"], placeholder="as it comes; 2-6", info="from-to or sparse, normal, busy"),
        gr.Textbox("", label=LABELS["polyphony"], placeholder="as it comes; 1-3", info="struck together, from-to"),
        gr.Textbox(
            "",
            label=LABELS["pitch_range"],
            placeholder="the track's; C3-C6",
            info="lowest-highest pitch, C4 is middle C",
        ),
        gr.Dropdown([ANY_KEY, *KEYS], value=ANY_KEY, label=LABELS["key"], info="only notes of this scale"),
        # A text, because Gradio's number field turns an empty value into 0, and JavaScript rounds large numbers.
        gr.Textbox("", label=LABELS["seed"], placeholder="a new one", info="the same seed, the same notes; empty: new"),
    ]


def _wishes() -> list[Any]:
    """The rest of `FIELDS`: what the notes take from the chords, from those that stand there, and from other bars."""
    return [
        gr.Textbox("", label=LABELS["chords"], placeholder="the song's; Am F | C G/B", info="| begins the next bar"),
        gr.Dropdown(
            [KEEP_NOTHING, "rhythm", "pitches", "contour"],
            value=KEEP_NOTHING,
            label=LABELS["keep"],
            info="of the notes that are replaced",
        ),
        gr.Slider(0, 1, 0, step=0.05, label=LABELS["vary"], info="the share to write anew; 0: all of it"),
        gr.Textbox(
            "",
            label=LABELS["like"],
            placeholder="the most alike; 1-4",
            info="bars to follow; Lead:9-12, itself, none",
        ),
        gr.Dropdown(
            [("as the track", "track"), ("on the grid", "grid"), ("the model's", "model")],
            value="track",
            label=LABELS["feel"],
            info="timing and loudness",
        ),
    ]


def style_tab(desk: StyleDesk, style: gr.Dropdown) -> None:
    """Builds the tab in which a style is learned from the composer's own files."""
    gr.Markdown("Give it a handful of your own pieces; five or more are best. It takes one to three minutes.")
    with gr.Row():
        with gr.Column(scale=3):
            pieces = gr.File(
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
                overwrite = gr.Checkbox(label="Replace a style of that name")
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
                visible=False,  # it cannot draw an empty plot
            )
            hear = gr.Button("Hear the same bars before and after")
            before = gr.Audio(label="without the style", interactive=False, buttons=[])
            after = gr.Audio(label="with the style", interactive=False, buttons=[])
    tab = gr.Textbox(visible=False)
    pieces.change(desk.read_pieces, pieces, read, **EVENT, **AT_ONCE)
    start.click(desk.learn, [tab, pieces, name, overwrite], [told, curve, style], concurrency_limit=None, **IN_TAB)
    stop.click(desk.stop, tab, None, **IN_TAB, **AT_ONCE)
    hear.click(desk.hear, [pieces, name], [before, after], concurrency_limit=None, api_visibility="private")


def taste_section(page: gr.Blocks, tab: gr.Tab, desk: TasteDesk) -> None:
    """Builds the part of the tab about the listener's taste."""
    with gr.Column(visible=desk.is_ours):
        gr.Markdown(
            "**Your taste.** What you keep, star and throw away in the Song tab is noted on this machine, as numbers "
            "without notes or names of songs. Once that is known to help, later candidates come in your order. Nothing "
            "leaves this machine."
        )
        told = gr.Markdown("", elem_id="mr-taste")
        with gr.Row():
            learn = gr.Checkbox(label="Learn my taste", scale=2)
            forget = gr.Button("Forget my taste", size="md", scale=1)
    for look in (page.load, tab.select):
        look(desk.load, None, [learn, told], **EVENT, **AT_ONCE)
    learn.input(desk.switch, learn, told, **EVENT)
    forget.click(desk.forget, None, told, **EVENT)
