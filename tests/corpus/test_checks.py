"""Which pieces are left out and why; copies, related pieces, splits."""

import numpy as np

from midi_rwkv.corpus.checks import Filters, Piece, judge, minhash, note_hash, sort_pieces, steadiness, windows
from midi_rwkv.corpus.shards import read_song


def song_of(data):
    return read_song(data, "x")


def test_filters_say_why(make, build_midi, note):
    filters = Filters()
    assert judge(song_of(make(1)), filters) == ""
    assert judge(song_of(make(1, bars=4)), filters) == "too short: 4 bars, 16 notes"
    one = build_midi([[e for k in range(48) for e in note(k * 480, 60, 200)]])
    assert judge(song_of(one), filters) == "one note repeated: 100% of the notes"
    assert judge(song_of(make(1)), Filters(max_notes=40)) == "too long: 48 notes"
    rng = np.random.default_rng(0)
    free = np.sort(rng.integers(0, 480 * 48, 400))
    notes = [e for t in free for e in note(int(t), int(rng.integers(40, 80)), 1)]
    floating = build_midi([sorted(notes, key=lambda e: e[0])])
    assert steadiness(song_of(floating)) < 0.4
    assert judge(song_of(floating), filters).startswith("wrong bars: the notes keep to no beat (0.3")
    swing = [e for k in range(48) for e in note(k * 480 + (310 if k % 2 else 0), 50 + k % 9, 100)]
    assert judge(song_of(build_midi([swing])), filters) == ""
    metres = [(k // 2 * 3360 + k % 2 * 1920, bytes.fromhex(f"ff58040{4 - k % 2}021808")) for k in range(24)]  # 4/4 3/4
    restless = build_midi([metres, [e for k in range(96) for e in note(k * 480, 50 + k % 9, 100)]])
    assert judge(song_of(restless), filters).startswith("wrong bars: the metre changes")


def test_copies_are_seen_through_transposition_and_new_clothes(make):
    song = song_of(make(3))
    assert note_hash(song) == note_hash(song_of(make(3)))
    assert note_hash(song) != note_hash(song_of(make(3, shift=1)))
    assert np.array_equal(windows(song), windows(song_of(make(3, shift=5, drums=True, scale=1.5))))
    assert minhash(np.arange(3, dtype=np.uint32)) is None
    a, b = (minhash(windows(song_of(make(s)))) for s in (3, 4))
    assert a is not None
    assert np.mean(a == b) < 0.1


def piece(name, numbers, split="", reason=""):
    hashes = np.array(numbers, np.uint32) * np.uint32(2654435761)
    return Piece(name, split, "", reason, 10, 100, name.encode(), minhash(hashes))


def test_related_pieces_never_part_and_copies_go():
    pieces = []
    for k in range(60):
        base = k * 1000
        pieces += [
            piece(f"s/{k}a", range(base, base + 200)),
            piece(f"s/{k}b", range(base + 50, base + 250)),  # 150 of 250 in common: related
            piece(f"s/{k}c", range(base + 5, base + 205)),  # nearly all in common: a copy
        ]
    result = sort_pieces(pieces, Filters(duplicate=0.8, related=0.4), {"valid": 0.2, "test": 0.2})
    assert all(r == f"near-duplicate of s/{k}a" for k, r in enumerate(result.reasons[2::3]))
    pairs = list(zip(result.splits[::3], result.splits[1::3], strict=True))
    assert all(a == b for a, b in pairs)
    counts = [sum(a == s for a, _ in pairs) for s in ("train", "valid", "test")]
    assert sum(counts) == 60
    assert all(n >= 5 for n in counts)
    another = piece("s/new", range(10**6, 10**6 + 99))
    more = sort_pieces([*pieces, another], Filters(duplicate=0.8, related=0.4), {"valid": 0.2, "test": 0.2})
    assert more.splits[:-1] == result.splits, "another piece changes no other's split"
    few = sort_pieces(pieces[:6], Filters(), {"valid": 0.001})
    assert "valid" in few.splits, "some piece is to be validated on"
