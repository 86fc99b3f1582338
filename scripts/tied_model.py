"""RWKV-7 with one matrix for the embedding and the head, for experiments.py."""

from __future__ import annotations

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7


class TiedRWKV7(RWKV7):
    """The head's matrix is the embedding's too, with the head's initial values: ln0 makes any scale a unit one."""

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.emb.weight = self.head.weight
