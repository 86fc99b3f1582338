"""The WKV recurrence of RWKV-7: a definition, and faster forms of it with the same signature (see README.md)."""
