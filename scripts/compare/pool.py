"""pool.py: trains several runs in parallel, each with an equal part of the cores or on a GPU of its own.

A run is a folder with run.json, its config. It is finished when its metrics say so; then it is not trained again. One
that was stopped goes on from its checkpoint.
"""
import collections
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import metrics
from compare import CompareError

POLL_SECONDS = 0.02
PR_SET_PDEATHSIG = 1  # of prctl(2)
LOG_LINES = 20        # of a failed run

Task = collections.namedtuple("Task", "title folder config")  # config is the text of run.json


def config_path(task):
    return os.path.join(task.folder, "run.json")


def without_folder(config):
    """Identifies the config of a run, the text of run.json: all of it except its folder, which may be moved."""
    tokens, _, text = config.partition("\n")
    parsed = json.loads(text)
    del parsed["train"]["out_dir"]
    return tokens, parsed


def has_begun(task):
    """Whether the folder of a task holds its run. Raises CompareError if it holds another one."""
    try:
        with open(config_path(task), encoding="utf-8") as file:
            is_same = without_folder(file.read()) == without_folder(task.config)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        is_same = False
    if not is_same:
        raise CompareError(f"{task.folder} holds a run with another config; give another --out, or remove that folder to "
                           "train the run anew")
    return True


def final_loss(run):
    """The last validation loss of a run; None unless it was trained to its end."""
    losses = metrics.values(run, "val", ["step", "loss"])
    return losses[-1][1] if run.status == "done" and losses and losses[-1][0] == run.step else None


def finished(task):
    """The run of a task as metrics.Run, or None if it is not finished. Raises CompareError."""
    if not has_begun(task):
        return None
    try:
        run = metrics.read_run(task.folder)
    except metrics.MetricsError:
        return None
    return run if run.status == "diverged" or final_loss(run) is not None else None


def gpus():
    """The GPUs that the trainer may use, as texts for CUDA_VISIBLE_DEVICES; [] if there is none."""
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
        self.jobs = jobs or len(self._gpus) or cores
        self.threads = max(1, cores // self.jobs)

    def _environment(self, place):
        environment = dict(os.environ)
        if self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[place % len(self._gpus)]
        return environment

    def _start(self, task, place):
        path = config_path(task)
        os.makedirs(task.folder, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:  # the folder may have been moved since the last start
            file.write(task.config)
        # If this program is killed, its runs stop, too; otherwise they would run next to those of the next start.
        prctl = ctypes.CDLL(None).prctl
        with open(os.path.join(task.folder, "log.txt"), "wb") as log:
            return subprocess.Popen([self._train_gpt2, path, f"--threads={self.threads}"], stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, env=self._environment(place), start_new_session=True,
                                    pass_fds=[self._lock.fileno()] if self._lock else [],
                                    preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM))

    def _end(self, task, status):
        """The run of a process that ended. Raises CompareError."""
        run = finished(task)
        if run:
            # The weights are not needed any more, and those of all runs would fill a disk.
            shutil.rmtree(os.path.join(task.folder, "checkpoints"), ignore_errors=True)
            return run
        if status <= 0:
            how = f"killed by signal {-status}" if status else "stopped from outside"
            raise CompareError(f"the run in {task.folder} was {how}; start again in the same way to go on")
        with open(os.path.join(task.folder, "log.txt"), encoding="utf-8", errors="replace") as log:
            sys.stderr.writelines(log.readlines()[-LOG_LINES:])
        raise CompareError(f"{self._train_gpt2} {config_path(task)} failed with status {status}; put right what it says, "
                           f"and start again in the same way to go on. Without the folder {task.folder} that run starts "
                           "anew")

    def train(self, tasks, progress):
        """Trains the tasks that are not finished, in this order; returns the runs of all as {task: metrics.Run}.

        progress(task, run, seconds, finished, all) is called after each one that was trained here, with how many of how
        many tasks are finished. When a run fails, or a signal ends this program, the others are stopped; they keep a
        checkpoint. Raises CompareError.
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
                    progress(task, runs[task], time.monotonic() - begun, len(tasks) - len(waiting) - len(running),
                             len(tasks))
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.wait()
        return runs
