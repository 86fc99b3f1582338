"""python -m midi_rwkv"""

from midi_rwkv.commands.cli import entry

entry()
