"""`python -m midi_rwkv` runs the command."""

from midi_rwkv.commands.cli import entry

entry()
