"""Work spread over processes: results in order, a bounded number under way, nothing left running.

Workers never see a Ctrl-C, which goes to the main process. They end with it, even if it is killed, and when it
stops early they are told to end in an orderly way, so that what they were writing is removed.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import cv2

from converters.cli.errors import DatasetError

AHEAD = 16  # items per worker that may be under way, so that memory does not grow with their number


def in_processes(job: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    """``job(item)`` for every item, in order. Closing it early ends the workers before it returns.

    Raises what a job raises, and DatasetError if a worker dies.
    """
    spawn = multiprocessing.get_context("spawn")  # OpenCV's threads do not survive a fork
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, spawn, initializer=_start_worker, initargs=(job,)) as pool:
        pending: deque[Any] = deque()
        try:
            for item in items:
                with _interrupts_held_back():  # this may start a worker
                    pending.append(pool.submit(_work, item))
                if len(pending) > AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise DatasetError("a worker process died (out of memory?): try --workers 1") from None
        except BaseException:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Processes that start meanwhile never see a Ctrl-C; this one sees it at the end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_job: Callable[[Any], Any]


def _start_worker(job: Callable[[Any], Any]) -> None:
    """Take the job; end at once if the main process is gone."""
    global _job
    _job = job
    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end(*_: Any) -> None:
    """Unwind what is running, undisturbed by being told again."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _work(item: Any) -> Any:
    """Do the job; told to end meanwhile, end in an orderly way. Between jobs there is nothing to put in order."""
    try:
        signal.signal(signal.SIGTERM, _end)
        return _job(item)
    except SystemExit:
        os._exit(1)  # else the pool would hand over the next item
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
