"""python -m midi_rwkv"""

from .cli import entry

entry()
