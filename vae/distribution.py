"""Training on several replicas of a model: the workers that TF_CONFIG names, or the GPUs of one machine.

All replicas have the same weights. Each takes its share of the rows of a step's batch, and their gradients are summed
before Adam uses them (synchronous data parallelism, by tf.distribute). The random draws are the same as on one machine,
so the results are the same up to rounding: each worker runs training.make_blocks for itself.

A launcher (Slurm, Kubernetes, `make workers`) starts `python train.py` once for each worker, with TF_CONFIG; each
process then calls `connect`. The workers tell each other sums of numbers only, through TensorFlow. If one of them ends,
TensorFlow raises an error in the others. If one does not answer, the others end themselves. The launcher starts them
again.
"""

import contextlib
import dataclasses
import faulthandler
import json
import os
import re
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended
from tensorflow.python.eager import context as eager_context

from config import Config, UsageError
from vae import cores, signals, training
from vae.messages import note
from vae.training import Block, State

# What TensorFlow raises if another worker has ended.
LOST_WORKER_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)

TF_CONFIG_FORM = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
HOW_TO_CONTINUE = "what was saved is kept; to continue, start all workers again with --restore True"


def read_tf_config(text: str) -> tuple[dict[str, str], str] | None:
    """The addresses of all workers by their names, the chief's first, and the name of this one.

    Without a job `chief`, worker 0 is the chief. None if there is only one worker. Raises UsageError.
    """
    workers = {}
    try:
        content = json.loads(text)
        jobs = content.get("cluster", {})
        for job in ("chief", "worker"):
            for index, address in enumerate(jobs.get(job, [])):
                workers[f"{job} {index}"] = address
        if set(jobs) <= {"chief", "worker"} and len(workers) < 2:
            return None
        name = f"{content['task']['type']} {int(content['task']['index'])}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG takes {TF_CONFIG_FORM}, got {text[:200]!r} ({error})") from None
    if not set(jobs) <= {"chief", "worker"} or "chief 1" in workers:
        raise UsageError(f"TF_CONFIG: a cluster takes workers and one chief at most, got {', '.join(jobs)}")
    for worker, address in workers.items():
        match = re.fullmatch(r"\S+:(\d{1,5})", str(address))
        if match is None or int(match[1]) >= 2**16:
            raise UsageError(f"TF_CONFIG: the address of {worker} takes 'host:port', got {address!r}")
    if len(set(workers.values())) < len(workers):
        raise UsageError(f"TF_CONFIG: each worker takes an address of its own, got {list(workers.values())}")
    if name not in workers:
        raise UsageError(f"TF_CONFIG: the task takes one of {', '.join(workers)}, got {name}")
    return workers, name


def connect(config: Config, timeout: float) -> "Replicas | None":
    """The replicas of the workers that TF_CONFIG names, once all of them are there. None if there is only one worker.

    From then on, the process ends when it has waited `timeout` seconds for the others. TensorFlow must not have been
    used before. Raises UsageError for a bad TF_CONFIG, and if the workers cannot share a batch equally.
    """
    cluster = read_tf_config(os.environ["TF_CONFIG"])
    if cluster is None:
        return None
    workers, name = cluster
    cores.set_threads(config.network, config.batch_size // len(workers))
    # TensorFlow's coordination service ends a run if a worker pauses for 10 s, or its network for 5 s. The health check
    # that takes its place holds Python's lock for 10 s at a time. The watchdog does the work of both. They can only be
    # turned off by names that are not public.
    eager_context.context().configure_coordination_service(service_type="")
    CollectiveAllReduceExtended._enable_check_health = False
    watchdog = Watchdog(workers, name, timeout)
    # Python handles no signal while TensorFlow waits, so Ctrl-C and SIGTERM end the process without Python's help.
    with signals.handled_by(signal.SIG_DFL, signal.SIGINT, signal.SIGTERM):
        try:
            with watchdog.waiting():
                strategy = tf.distribute.MultiWorkerMirroredStrategy()
        except tf.errors.UnknownError as error:
            raise UsageError(f"TF_CONFIG: TensorFlow cannot listen on {workers[name]}: {error.message}") from None
        replicas = Replicas(strategy, config.batch_size, list(workers), name, watchdog.waiting)
        replicas.meet()
    note(f"{name}: all workers are connected; each batch is shared among {replicas.count} replicas")
    if replicas.is_chief and config.network == "flat":
        note(f"{config.vae_type} trains faster on one machine than on several without GPUs: see docs/distributed.md")
    return replicas


def on_gpus(batch_size: int) -> "Replicas | None":
    """The replicas of this machine's GPUs. None if it does not have several."""
    if len(tf.config.list_physical_devices("GPU")) < 2:
        return None
    gpus = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    note(f"each batch is shared among {len(gpus)} GPUs")
    return Replicas(tf.distribute.MirroredStrategy(gpus), batch_size)


class Watchdog:
    """Ends this process, with exit code 1, when it has waited `seconds` for the others. It says why before that."""

    def __init__(self, workers: dict[str, str], name: str, seconds: float) -> None:
        self._others = {other: address for other, address in workers.items() if other != name}
        self._name = name
        self._seconds = seconds
        self._no_traceback = open(os.devnull, "w")
        self._waiting_since: float | None = None
        others = ", ".join(f"{other} ({address})" for other, address in self._others.items())
        note(f"{name} ({workers[name]}) waits for {others}; it gives up after {seconds:g} s (--worker_timeout)")
        threading.Thread(target=self._speak, daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which this process waits for the others. Raises ConnectionError if one of them has ended."""
        self._waiting_since = time.monotonic()
        # It needs no lock of Python, so it ends the process even while TensorFlow holds that lock.
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._no_traceback)
        try:
            yield
        except LOST_WORKER_ERRORS:
            raise ConnectionError(f"{self._name} lost the others: {self._problems()}; {HOW_TO_CONTINUE}") from None
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._waiting_since = None

    def _speak(self) -> None:
        while True:
            since = self._waiting_since
            time.sleep(self._seconds / 4)
            if since is not None and since == self._waiting_since:
                note(
                    f"{self._name}: no progress for {time.monotonic() - since:.0f} s: {self._problems()}; it "
                    f"gives up after {self._seconds:g} s (--worker_timeout); {HOW_TO_CONTINUE}"
                )

    def _problems(self) -> str:
        """Which of the other workers do not answer, and why."""
        problems = []
        for name, address in self._others.items():
            host, _, port = address.rpartition(":")
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            except (OSError, UnicodeError) as error:
                problems.append(f"{name} ({address}) does not answer ({error})")
        if not problems:
            return "all of them answer, but one may be stopped, slow, or cut off from another"
        return ", ".join(problems)


class Replicas:
    """The replicas that train one model, on the workers with these names or on one machine. The first is the chief.

    `waiting` is the context in which this worker waits for the others. Raises UsageError if the replicas cannot share a
    batch equally.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        batch_size: int,
        names: Sequence[str] = ("this machine",),
        name: str = "this machine",
        waiting: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.strategy = strategy
        self.count: int = strategy.num_replicas_in_sync
        if batch_size % self.count > 0:
            next_multiple = batch_size + self.count - batch_size % self.count
            raise UsageError(
                f"argument --batch_size: takes a multiple of {self.count}, the number of replicas, got {batch_size}; "
                f"try {next_multiple}"
            )
        self.is_chief = name == names[0]
        self._names = list(names)
        self._index = self._names.index(name)
        self.waiting = waiting
        self._sum = self._make_sum()

    def gather(self, values: Sequence[int]) -> np.ndarray:
        """The values of all workers, int64 [workers, k], the chief's first. Every worker must call it with k values."""
        rows = np.zeros((len(self._names), len(values)), np.int64)
        rows[self._index] = values
        return self._sum(rows)

    def meet(self) -> None:
        """Waits until all workers have called it."""
        self.gather([0])

    def check_agreement(self, config: Config, *images: np.ndarray) -> None:
        """Raises UsageError on all workers if one of them has other flags or other images than the chief."""
        checksums = {}
        for field, value in dataclasses.asdict(config).items():
            checksums[f"--{field}"] = zlib.crc32(repr(value).encode())
        checksums["images"] = 0
        for array in images:
            checksums["images"] = zlib.crc32(np.ascontiguousarray(array).data, checksums["images"])
        rows = self.gather(list(checksums.values()))
        for name, row in zip(self._names, rows, strict=True):
            different = np.array(list(checksums))[row != rows[0]]
            if different.size > 0:
                raise UsageError(f"{name} and {self._names[0]} must have the same {', '.join(different)}")

    def broadcast(self, state: State) -> None:
        """Gives every worker the chief's state, bit for bit."""
        variables = list(state.variables().values())
        values = [variable.numpy() for variable in variables]
        # The sum over the workers is the chief's value, since the others add zeros. As whole numbers, the bits of
        # floating-point numbers are summed exactly.
        bits = np.concatenate([np.ravel(value).view(np.int32) for value in values])
        bits = self._sum(bits * int(self.is_chief))
        for variable, value in zip(variables, values, strict=True):
            size = value.nbytes // bits.itemsize
            variable.assign(bits[:size].view(value.dtype).reshape(value.shape))
            bits = bits[size:]
        state.epoch = int(self.gather([state.epoch])[0, 0])

    def share_signal(self, received: list[int]) -> bool:
        """Whether a worker has received a signal. If so, `received` is no longer empty on any of them.

        Every worker calls it at the end of an epoch, so that all stop after the same one.
        """
        numbers = self.gather([received[0] if received else 0])[:, 0]
        index = int(numbers.argmax())
        number = int(numbers[index])
        if number > 0 and not received:
            note(f"{self._names[self._index]}: stopping, because {self._names[index]} was asked to stop")
            received.append(number)
        return number > 0

    def compile_block(self, state: State, batch_size: int) -> Callable[[Block], np.ndarray]:
        """A function that takes the optimizer steps of a Block. See training.compile_block.

        Every worker must call it with the same blocks. batch_size is the number of images of all replicas together.
        """
        optimizer = state.optimizer
        variables = state.model.trainable_variables
        share = batch_size // self.count

        # XLA has no collective operations on CPUs, so it compiles the gradients only.
        @tf.function(jit_compile=state.model.jit_compile, autograph=False)
        def compute_contribution(x: tf.Tensor, noise: tf.Tensor) -> training.Contribution:
            return training.compute_contribution(state.model, x, noise, batch_size)

        def take_step_on_replica(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            first = share * tf.distribute.get_replica_context().replica_id_in_sync_group
            x_share = tf.ensure_shape(x[first : first + share], (share, x.shape[-1]))
            noise_share = tf.ensure_shape(noise[first : first + share], (share, noise.shape[-1]))
            gradients, terms = compute_contribution(x_share, noise_share)
            # Keras sums the gradients over the replicas.
            optimizer.apply(gradients, variables)
            return terms

        def take_step(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            terms = self.strategy.run(take_step_on_replica, (x, noise))
            return tf.add_n(self.strategy.experimental_local_results(terms))

        take_steps = training.compile_loop(take_step, batch_size, jit_compile=False)

        def train_block(block: Block) -> np.ndarray:
            with self.waiting():
                terms = take_steps(block)
            return self._sum(terms)

        return train_block

    def _make_sum(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function that sums the workers' arrays. Every worker must call it, with an array of the same shape."""
        num_local = len(self.strategy.extended.worker_devices)

        def sum_in_replica(values: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # The replicas of one worker all have that worker's values, so that one of them is enough.
            is_first = context.replica_id_in_sync_group % num_local == 0
            counted = tf.where(is_first, values, tf.zeros_like(values))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, counted)

        @tf.function(autograph=False)
        def sum_in_graph(values: tf.Tensor) -> tf.Tensor:
            sums = self.strategy.run(sum_in_replica, (values,))
            return self.strategy.experimental_local_results(sums)[0]

        def sum_of_workers(values: np.ndarray) -> np.ndarray:
            with self.waiting():
                return sum_in_graph(tf.constant(values)).numpy()

        return sum_of_workers
