"""pool.py: trains several runs side by side, each with an equal part of the cores or on a GPU of its own.

A run is a folder with run.json, its config. It is finished when its metrics say so; then it is not trained again. One
that was stopped goes on from its checkpoint.
"""
import collections
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time

import metrics

POLL_SECONDS = 0.02
PR_SET_PDEATHSIG = 1  # of prctl(2)
LOG_LINES = 20        # of a failed run

Task = collections.namedtuple("Task", "title folder config")  # config is the text of run.json


class PoolError(Exception):
    """A run that failed; the text is for the user."""


def finished(task):
    """The run of a task as metrics.Run, or None where it is not finished, or had another config."""
    try:
        with open(os.path.join(task.folder, "run.json"), encoding="utf-8") as file:
            if file.read() != task.config:
                return None
        run = metrics.read_run(task.folder)
    except (OSError, metrics.MetricsError):
        return None
    return run if run.status in ("done", "diverged") else None


def gpus():
    """The GPUs that the trainer may use, as texts for CUDA_VISIBLE_DEVICES; [] where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    except OSError:
        return []
    return [str(i) for i, _ in enumerate(line for line in done.stdout.splitlines() if line.startswith("GPU "))]


class Pool:
    """Places for runs.

    jobs        how many run at the same time
    threads     CPU threads of each
    device      "cpu" or "cuda"
    """

    def __init__(self, train_gpt2, device, jobs=None, lock=None):
        """
        device      auto, cpu or cuda
        jobs        None is as many as there are cores, or GPUs
        lock        an open file that runs keep open, too: a lock on it holds until the last one ended
        """
        self._train_gpt2 = train_gpt2
        self._lock = lock
        self._gpus = [] if device == "cpu" else gpus()
        cores = len(os.sched_getaffinity(0))
        self.device = "cuda" if self._gpus else "cpu"
        self.jobs = jobs or len(self._gpus) or cores
        self.threads = max(1, cores // self.jobs)

    def _environment(self, place):
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        return environment

    def _start(self, task, place):
        path = os.path.join(task.folder, "run.json")
        try:
            with open(path, encoding="utf-8") as file:
                is_same = file.read() == task.config
        except OSError:
            is_same = False
        if not is_same:  # nothing of another run stays
            shutil.rmtree(task.folder, ignore_errors=True)
            os.makedirs(task.folder)
            with open(path, "w", encoding="utf-8") as file:
                file.write(task.config)
        # When this program is killed, its runs are stopped: they would go on next to those of the next start.
        prctl = ctypes.CDLL(None).prctl
        with open(os.path.join(task.folder, "log.txt"), "wb") as log:
            return subprocess.Popen([self._train_gpt2, path, f"--threads={self.threads}"], stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, env=self._environment(place), start_new_session=True,
                                    pass_fds=[self._lock.fileno()] if self._lock else [],
                                    preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))

    def _end(self, task, status):
        """The run of a process that ended. Raises PoolError."""
        run = finished(task)
        if run:
            # The weights are not needed any more, and those of all runs would fill a disk.
            shutil.rmtree(os.path.join(task.folder, "checkpoints"), ignore_errors=True)
            return run
        if status == 0:
            raise PoolError("a run was stopped from outside; start again in the same way to go on")
        with open(os.path.join(task.folder, "log.txt"), encoding="utf-8", errors="replace") as log:
            sys.stderr.writelines(log.readlines()[-LOG_LINES:])
        raise PoolError(f"{self._train_gpt2} {task.folder}/run.json failed with status {status}")

    def train(self, tasks, progress):
        """Trains what is not finished, in this order; returns the runs of all tasks as {task: metrics.Run}.

        progress(task, run, seconds) is called after each one that was trained here. When a run fails, or a signal ends
        this program, the others are stopped; they keep a checkpoint. Raises PoolError.
        """
        runs = {task: finished(task) for task in tasks}
        waiting = collections.deque(task for task in tasks if not runs[task])
        free, running = list(range(self.jobs)), {}  # process: (task, place, when it began)
        try:
            while waiting or running:
                while waiting and free:
                    task, place = waiting.popleft(), free.pop(0)
                    running[self._start(task, place)] = (task, place, time.monotonic())
                time.sleep(POLL_SECONDS)
                for process in [process for process in running if process.poll() is not None]:
                    task, place, begun = running.pop(process)
                    free.append(place)
                    runs[task] = self._end(task, process.returncode)
                    progress(task, runs[task], time.monotonic() - begun)
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
        return runs
