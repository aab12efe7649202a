"""Whatever JAX compiles, as it tells its listeners; programs from the cache on disk count, too."""

import contextlib
from collections.abc import Callable, Iterator

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def heard(listener: Callable[[str], None]) -> Iterator[None]:
    """Calls `listener(program)` for everything that is compiled inside."""
    def listen(event, seconds, **details):
        if event == EVENT:
            listener(str(details))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def programs(predictor) -> int:
    """Executables that a predictor's programs have made so far."""
    return sum(program._cache_size() for program in vars(predictor._programs).values()
               if hasattr(program, "_cache_size"))
