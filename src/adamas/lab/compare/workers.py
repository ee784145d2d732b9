"""Runs trials in separate processes, several at a time. If a process dies, its trial has failed and the others continue.

A worker is a new Python process that runs many trials, because importing PyTorch takes seconds. It is started with
``subprocess`` and not as a ``multiprocessing.Process``, which would run the user's script again in each child unless the
script is guarded. May import the standard library and adamas.lab.compare.study.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import IO

from adamas.lab.compare.study import Outcome, Settings, Trial
from adamas.lab.inputs import InputError

RUN_TRIAL = "adamas.lab.compare.trial:run_trial"
SECONDS_TO_END = 5.0  # a worker that was asked to end is killed after this time
SECONDS_TO_NOTICE = 1.0  # the longest delay until the death of a worker is noticed if its children keep its socket open

_READY = "ready"


def at_once(settings: Settings) -> int:
    """The number of trials that run at the same time: as many as the study says, and at most one per processor."""
    return min(settings.jobs, os.cpu_count() or 1)


class WorkerError(OSError):
    """A worker process could not even start."""


class Worker:
    """A process that runs one trial after another. ``trial`` is the current one."""

    def __init__(self, settings: Settings, run: str) -> None:
        """Start the process; it sends a message when it is ready for trials."""
        ours, theirs = socket.socketpair()
        self.connection = Connection(ours.detach())
        self.trial: Trial | None = None
        self.ready = False
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # end() closes it
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({theirs.fileno()})"
        # A terminal sends Ctrl-C to all of its processes, but this process handles it: a child that is started while the
        # signal is blocked inherits that.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._send((settings, run))

    @property
    def dead(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def start(self, trial: Trial) -> None:
        """Send it a trial to run."""
        self.trial = trial
        self._send(trial)

    def receive(self) -> Outcome | None:
        """Return the outcome of its trial, or None if it has just become ready.

        Raises:
            EOFError: it has died.
        """
        try:
            if not self.connection.poll():
                raise EOFError
            answer = self.connection.recv()
        except OSError as error:
            raise EOFError from error
        if answer == _READY:
            self.ready = True
            return None
        self.trial = None
        if isinstance(answer, InputError):
            raise answer
        outcome: Outcome = answer
        return outcome

    def end(self) -> str:
        """End the process, if it has not ended by itself, and return how it ended."""
        self.connection.close()  # a worker ends when its connection is closed
        try:
            code = self._process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._errors:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
        if code == -signal.SIGKILL:
            how += ", which is what the system does when memory runs out"
        return f"its process ended {how}" + (f": {last}" if last else "")

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it has died; ``receive`` finds that
            self.connection.send(message)


class Workers:
    """The workers of a study. A context manager: at its end, the processes end."""

    def __init__(self, settings: Settings, run: str = RUN_TRIAL) -> None:
        """Start none yet.

        Args:
            settings: of the study.
            run: ``module:function`` that takes the settings and a trial, and returns an Outcome.
        """
        self._settings = settings
        self._run = run
        self._workers: list[Worker] = []

    def __enter__(self) -> Workers:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def run(self, trials: Sequence[Trial], on_start: Callable[[Trial], None]) -> Iterator[tuple[Trial, Outcome]]:
        """Run trials, ``at_once(settings)`` at a time, and yield each with its outcome when it ends.

        Args:
            trials: the trials, in the order in which they are started.
            on_start: called with each trial when it begins.

        Raises:
            WorkerError: a process could not start.
            InputError: the task can no longer be trained, whatever the optimizer.
        """
        waiting = list(reversed(trials))
        while waiting or any(worker.trial for worker in self._workers):
            free = sum(worker.trial is None for worker in self._workers)
            room = at_once(self._settings) - len(self._workers)
            self._workers += [Worker(self._settings, self._run) for _ in range(min(room, len(waiting) - free))]
            for worker in self._workers:
                if worker.ready and worker.trial is None and waiting:
                    worker.start(waiting.pop())
                    assert worker.trial is not None
                    on_start(worker.trial)
            yield from self._outcomes()

    def _outcomes(self) -> Iterator[tuple[Trial, Outcome]]:
        """Wait for a message or the death of a worker, and yield what has ended."""
        busy = {worker.connection: worker for worker in self._workers if worker.trial or not worker.ready}
        heard = wait(list(busy), SECONDS_TO_NOTICE)
        for connection, worker in busy.items():
            if connection not in heard and not worker.dead:
                continue
            trial = worker.trial
            try:
                outcome = worker.receive()
            except EOFError:
                self._workers.remove(worker)
                how = worker.end()
                if trial is None:
                    raise WorkerError(f"no trial can be run: {how}") from None
                outcome = Outcome("failed", error=how)
            if trial is not None and outcome is not None:
                yield trial, outcome


def serve(descriptor: int) -> None:
    """Run as a worker: run each trial that arrives through the socket, and send back its outcome."""
    connection = Connection(descriptor)
    settings, run = connection.recv()
    trials: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        # In a separate thread, so that a worker does not keep training after its comparison was killed. It does not unpickle:
        # that would import modules while the other thread imports PyTorch.
        with contextlib.suppress(EOFError, OSError):
            while True:
                trials.put(connection.recv_bytes())
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    module, _, name = run.partition(":")
    function = getattr(importlib.import_module(module), name)
    connection.send(_READY)
    while True:
        trial: Trial = pickle.loads(trials.get())
        try:
            outcome = function(settings, trial)
        except InputError as error:  # not the optimizer's fault: the data or the file of the task is gone
            outcome = error
        except BaseException as error:  # whatever a user's optimizer raises is the outcome of the trial
            reason = next(iter(str(error).splitlines()), "")
            outcome = Outcome("failed", error=f"{type(error).__name__}: {reason}".rstrip(": "))
        try:
            connection.send(outcome)
        except OSError:
            os._exit(0)
