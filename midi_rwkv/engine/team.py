"""Two threads on one job: parts of it are claimed one by one, so that neither waits for a thread that isn't running.

A job is a row of stages, a stage some parts that may be done at once and in any order:

    part = claim(team, begin, count)              # 0 to count - 1, or -1: all are claimed
    while part >= 0:
        ...
        release(team)                             # it is done
        part = claim(team, begin, count)
    watch(team, DONE, begin + count, patience)    # until all of it is done
    begin += count

Whoever runs this does all of it alone if nobody else comes. One that comes late skips what is claimed, and one that
comes when the job is over skips everything, for parts are numbered on and on and no number is given twice. The only
wait is for a part that another thread is working on. One thread has to be patient; the other had better leave soon, for
the system may have put it on the very core that the first one needs.

Any thread may be late, so each may write shared memory only within a part that it has claimed, and a part may not
overwrite what its own stage reads, or what is read on the way to it from the stage before. Then what a late thread has
read may be wrong, but it can claim nothing that would use it.
"""

from __future__ import annotations

import platform
from typing import Any

import numba.extending
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numpy.typing import NDArray

from midi_rwkv.kernels.numba_vectors import INTEGER

intrinsic: Any = numba.extending.intrinsic  # its own type has the compiler's argument in it

# Where the counters are, far enough apart for lines of the cache of their own: parts claimed, parts done, and the
# number of the first part of the newest job.
CLAIMED, DONE, POSTED = 8, 24, 40
FIRST_PART = 1


def new_team() -> NDArray[np.int64]:
    """Counters for jobs whose first part is FIRST_PART; none is posted."""
    team = np.zeros(48, np.int64)
    team[[CLAIMED, DONE]] = FIRST_PART
    return team


def counter(context: Any, builder: Any, team_type: Any, team: Any, at: Any) -> Any:
    """The address of one of them."""
    return builder.gep(context.make_array(team_type)(context, builder, value=team).data, [at])


@intrinsic
def claim(typingctx, team, begin, count):  # type: ignore[no-untyped-def]
    """The next part of `count` from number `begin` on, or -1."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        claimed = counter(context, builder, signature.args[0], args[0], ir.Constant(INTEGER, CLAIMED))
        found = cgutils.alloca_once_value(builder, ir.Constant(INTEGER, -1))
        again, attempt, success, leave = (builder.append_basic_block() for _ in range(4))
        builder.branch(again)
        builder.position_at_end(again)
        number = builder.load_atomic(claimed, "monotonic", 8)
        part = builder.sub(number, args[1])
        builder.cbranch(builder.icmp_signed("<", part, args[2]), attempt, leave)
        builder.position_at_end(attempt)
        after = builder.add(number, ir.Constant(INTEGER, 1))
        swapped = builder.cmpxchg(claimed, number, after, "acq_rel", "monotonic")
        builder.cbranch(builder.extract_value(swapped, 1), success, again)
        builder.position_at_end(success)
        builder.store(part, found)
        builder.branch(leave)
        builder.position_at_end(leave)
        return builder.load(found)

    return types.int64(team, types.int64, types.int64), generate


@intrinsic
def release(typingctx, team):  # type: ignore[no-untyped-def]
    """Say that a claimed part is done."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        done = counter(context, builder, signature.args[0], args[0], ir.Constant(INTEGER, DONE))
        builder.atomic_rmw("add", done, ir.Constant(INTEGER, 1), "acq_rel")
        return context.get_dummy_value()

    return types.void(team), generate


@intrinsic
def post(typingctx, team, begin):  # type: ignore[no-untyped-def]
    """Tell who watches that the job whose first part is `begin` may be begun."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        posted = counter(context, builder, signature.args[0], args[0], ir.Constant(INTEGER, POSTED))
        builder.store_atomic(args[1], posted, "release", 8)
        return context.get_dummy_value()

    return types.void(team, types.int64), generate


@intrinsic
def watch(typingctx, team, at, least, patience):  # type: ignore[no-untyped-def]
    """Until the counter is `least` or more -> what it is; or until it is negative or was looked at so often -> -1."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = counter(context, builder, signature.args[0], args[0], args[1])
        found = cgutils.alloca_once_value(builder, ir.Constant(INTEGER, -1))
        left = cgutils.alloca_once_value(builder, args[3])
        again, short, pause, reached, leave = (builder.append_basic_block() for _ in range(5))
        builder.branch(again)
        builder.position_at_end(again)
        value = builder.load_atomic(place, "acquire", 8)
        builder.cbranch(builder.icmp_signed(">=", value, args[2]), reached, short)
        builder.position_at_end(short)
        builder.store(builder.sub(builder.load(left), ir.Constant(INTEGER, 1)), left)
        hope = builder.icmp_signed(">=", builder.or_(value, builder.load(left)), ir.Constant(INTEGER, 0))
        builder.cbranch(hope, pause, leave)
        builder.position_at_end(pause)
        if platform.machine() in ("x86_64", "AMD64"):  # the core may have a second thread
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        builder.branch(again)
        builder.position_at_end(reached)
        builder.store(value, found)
        builder.branch(leave)
        builder.position_at_end(leave)
        return builder.load(found)

    return types.int64(team, types.int64, types.int64, types.int64), generate
