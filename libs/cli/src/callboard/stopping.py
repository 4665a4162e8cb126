"""How every command ends that is told to stop: by Ctrl-C, SIGTERM, or SIGHUP where nohup does not forbid it.

One sentence on standard error, and the exit status that a shell shows for that signal (130, 143 or 129). Nothing is
raised where the signal happens to arrive: in the middle of an import or of a driver's callback, an exception would be
swallowed, or printed with its stack. Asynchronous work is cancelled through its event loop, and whatever must not be
left half done is tidied up by the context managers inside that work. Everything else ends at once.
"""

import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

TO_STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_AGAIN_SECONDS = 0.5
"""A library may swallow a cancellation, so it is repeated; a connection may take as long to close."""


class _State:
    told: int | None = None
    cancel: Callable[[], None] | None = None


def listen(handler: Callable[[int, FrameType | None], object]) -> None:
    """Let `handler` take the signals that stop a command, also where the parent process had blocked them."""
    for number in TO_STOP:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_STOP)


def end_when_told() -> None:
    """Make this process end as this module says; call it before anything slow is imported."""
    listen(_stop)


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; if a signal cancels it, the process ends once it has tidied up."""
    import asyncio  # not above: `callboard.watch` is to stay small

    async def stoppable() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # noqa: S101 - for mypy: this is a task

        def cancel() -> None:
            if not task.done():
                task.cancel()
                loop.call_later(_AGAIN_SECONDS, cancel)

        def soon() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(cancel)

        _State.cancel = soon
        try:
            return await work
        except BaseException as error:
            if _State.told is None:
                raise
            _leave(_State.told, error)

    try:
        return asyncio.run(stoppable())
    finally:
        _State.cancel = None


def _stop(number: int, _: FrameType | None) -> None:
    if _State.cancel is None:
        _leave(number)
    _State.told = number
    _State.cancel()


def _leave(number: int, error: BaseException | None = None) -> NoReturn:
    """End by the signal, past everything that could still print; other tasks and threads have nothing to tidy up."""
    from callboard.errors import CommandError

    by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
    consequence = f" {error}" if isinstance(error, CommandError) else ""
    start = "\n" if os.isatty(2) else ""  # after the terminal's own ^C
    with suppress(OSError):
        os.write(2, f"{start}Stopped by {by}.{consequence}\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container is not ended by its own signal
