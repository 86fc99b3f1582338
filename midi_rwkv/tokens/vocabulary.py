"""Our vocabulary, as MidiTok makes it. No other module imports MidiTok, which only building a corpus needs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from midi_rwkv.score.score import POSITIONS_PER_BEAT

from .tokenizer import Tokenizer

SPECIAL_TOKENS = (
    "PAD",
    "BOS",
    "EOS",
    "Infill_Bar",
    "Infill_Track",
    "FillBar_Start",
    "FillBar_End",
    "Context_After",
    "Context_Before",
    "Context_Middle",
    "Song_Start",
    "Song_End",
)


def miditok_config() -> Any:
    """The MidiTok configuration of our own tokenizer (`TokenizerConfig`)."""
    from miditok import TokenizerConfig

    return TokenizerConfig(
        pitch_range=(0, 127),
        drums_pitch_range=(0, 127),
        beat_res={(0, 2): POSITIONS_PER_BEAT, (2, 4): 4, (4, 8): 2, (8, 16): 1},
        num_velocities=16,
        special_tokens=list(SPECIAL_TOKENS),
        use_programs=True,
        use_pitchdrum_tokens=True,
        use_note_duration_programs=list(range(128)),
        use_tempos=True,
        num_tempos=32,
        tempo_range=(40, 240),
        use_time_signatures=True,
        time_signature_range={d: list(range(1, n + 1)) for d, n in ((1, 4), (2, 8), (4, 16), (8, 16), (16, 16))},
        encode_ids_split="no",
        base_tokenizer="REMI",
        ac_polyphony_bar=True,
        ac_note_density_bar=True,
        ac_note_duration_bar=True,
        ac_pitch_class_bar=True,
    )


def base_tokenizer() -> Tokenizer:
    """Our vocabulary, in which every id stands for one base token."""
    from miditok import MMM

    tokenizer = MMM(miditok_config())
    # MidiTok writes the table that maps base tokens to characters only after training; over no text it learns no merge.
    tokenizer.train(vocab_size=len(tokenizer.vocab) + 1, model="BPE", iterator=[])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        params = json.loads(path.read_text(encoding="utf-8"))
    params["midi_rwkv"] = {"grid": "quarter"}
    return Tokenizer(params)
