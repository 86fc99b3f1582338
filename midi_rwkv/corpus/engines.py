"""Where the work on a corpus runs: processes on this machine, or a Dask or Ray cluster by way of joblib."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from midi_rwkv.errors import CorpusError, RequestError, packages_for

from .workers import AHEAD, Workers

ENGINES = ("local", "dask", "ray")
T = TypeVar("T")


@dataclass(frozen=True)
class Engine:
    """Where the work runs.

    Attributes:
        kind: one of ENGINES.
        jobs: processes; -1 for one per core. With an address, the cluster decides.
        address: of a Dask scheduler (tcp://host:8786) or a Ray head (host:6379, auto); "" starts one on this machine.
    """

    kind: str = "local"
    jobs: int = 1
    address: str = ""
    _workers: list[Workers] = field(default_factory=list, init=False, repr=False, compare=False)  # one while started

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise RequestError(f"engine must be one of {', '.join(ENGINES)}, got {self.kind!r}")
        if self.jobs < 1 and self.jobs != -1:
            raise RequestError(f"jobs must be 1 or more, or -1 for one a core, got {self.jobs}")
        if self.address and self.kind == "local":
            raise RequestError("an address needs an engine: dask or ray")

    @contextmanager
    def started(self, on_lost: Callable[[str], None] = lambda _: None) -> Iterator[None]:
        """Starts the workers for `run` within the block. Raises CorpusError or MissingPackageError.

        Args:
            on_lost: receives the name of each file on which a process of this machine died; the file is left out.
        """
        with packages_for("building a corpus"):
            import joblib
        with ExitStack() as stack:
            if self.kind == "dask":
                stack.enter_context(self._dask())
                stack.enter_context(joblib.parallel_config("dask", n_jobs=-1))
            elif self.kind == "ray":
                stack.enter_context(self._ray())
                stack.enter_context(joblib.parallel_config("ray", n_jobs=self._ray_cores()))
            else:
                self._workers.append(Workers(self.jobs, on_lost))
                stack.callback(lambda: self._workers.pop().stop())
            yield

    def run(self, function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Yields `function(*a)` for each of the arguments, in order.

        Only a few results are computed ahead, so that they do not pile up. The first of each `a` is a Chunk.
        """
        if self.kind == "local":
            yield from self._workers[0].run(function, arguments)
            return
        with packages_for("building a corpus"):
            import joblib
        calls = (joblib.delayed(function)(*a) for a in arguments)
        if self.kind == "ray":  # its joblib backend returns no results before all are complete
            with joblib.Parallel(batch_size=1) as parallel:
                while some := list(itertools.islice(calls, AHEAD * self._ray_cores())):
                    yield from parallel(some)
        else:
            yield from joblib.Parallel(return_as="generator", batch_size=1, pre_dispatch=f"{AHEAD} * n_jobs")(calls)

    @contextmanager
    def _dask(self) -> Iterator[None]:
        with packages_for("--engine dask"):
            import distributed
        connect: Callable[..., Any] = distributed.Client
        try:
            if self.address:
                client = connect(self.address, timeout=20)
            else:
                workers = None if self.jobs == -1 else self.jobs
                client = connect(n_workers=workers, threads_per_worker=1, dashboard_address=None)
        except (OSError, ValueError) as error:
            raise CorpusError(f"no Dask scheduler at {self.address} ({error})") from error
        with client:
            yield

    @contextmanager
    def _ray(self) -> Iterator[None]:
        with packages_for("--engine ray"):
            import ray
            from ray.util.joblib import register_ray

        try:
            if self.address:
                ray.init(address=self.address, log_to_driver=False)
            else:
                cores = None if self.jobs == -1 else self.jobs
                ray.init(num_cpus=cores, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CorpusError(f"no Ray cluster at {self.address or 'this machine'} ({error})") from error
        try:
            register_ray()
            yield
        finally:
            ray.shutdown()

    def _ray_cores(self) -> int:
        import ray

        return int(ray.cluster_resources().get("CPU", 1))
