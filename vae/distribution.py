"""Training on several replicas of a model: the workers of a cluster, or the GPUs of one machine.

All replicas have the same weights. Each takes its share of the rows of a step's batch, and their gradients are summed
before Adam uses them (synchronous data parallelism, by tf.distribute). The random draws are those of a run on one
machine, so that the results are the same up to rounding: see training.make_blocks, which each worker runs for itself.
"""

import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context as eager_context

from vae import cluster, training
from vae.cluster import ClusterError, Link
from vae.model import VAE
from vae.training import Block

# What TensorFlow raises in the other workers if one is lost.
LOST_WORKER_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)


class Replicas:
    """The replicas that train one model. Several workers have a `link`; the GPUs of one machine have none."""

    def __init__(self, strategy: tf.distribute.Strategy, link: Link | None = None) -> None:
        self.strategy = strategy
        self.link = link
        self.count: int = strategy.num_replicas_in_sync

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that reads and writes the run's folder."""
        return self.link is None or self.link.is_chief

    def create_state(self, build_model: Callable[[], VAE], learning_rate: float) -> tf.train.Checkpoint:
        """Returns the same as training.create_state, with a copy of each variable on every replica."""
        with self.strategy.scope():
            state = training.create_state(build_model(), learning_rate)
        # int() does not accept a variable that was created in the scope.
        state.epoch = tf.Variable(0, dtype=tf.int64)
        return state

    def broadcast(self, state: tf.train.Checkpoint) -> None:
        """Gives every worker the chief's state, bit for bit."""
        variables = [*state.model.trainable_variables, *state.optimizer.variables, state.epoch]
        # The sum over the workers is the chief's value, since the others add zeros. As whole numbers, the bits of
        # floating-point numbers are summed exactly.
        bits = [np.ravel(variable.numpy()).view(np.int32) for variable in variables]
        is_chief = int(self.is_chief)
        total = self._sum_now(tf.constant(np.concatenate(bits) * is_chief)).numpy()
        start = 0
        for variable, variable_bits in zip(variables, bits, strict=True):
            end = start + len(variable_bits)
            dtype = variable.numpy().dtype
            variable.assign(total[start:end].view(dtype).reshape(tuple(variable.shape)))
            start = end

    def agreed_signal(self, number: int) -> int:
        """Returns the number of a signal that any of the workers has received, the same on all of them, or 0.

        number: that of the signal that this worker has received, or 0. Every worker must call it. A worker that has
        received none prints which one has.
        """
        if self.link is None:
            return number
        numbers = self.link.exchange(number)
        agreed = max(numbers)
        if agreed and not number:
            cluster.report(f"stopping, because {self.link.tasks[numbers.index(agreed)]} was asked to stop")
        return agreed

    def undisturbed(self) -> contextlib.AbstractContextManager[None]:
        """Returns a block that is completed, a save for example, before the end of another worker ends this process."""
        if self.link is None:
            return contextlib.nullcontext()
        return self.link.undisturbed()

    def compile_block(self, state: tf.train.Checkpoint, batch_size: int) -> Callable[[Block], np.ndarray]:
        """Returns a function that takes the optimizer steps of a Block. See training.compile_block.

        Every worker must call it with the same blocks. batch_size is that of all replicas together.
        """
        optimizer = state.optimizer
        variables = state.model.trainable_variables
        share = batch_size // self.count

        # XLA has no collective operations on CPUs, so it compiles the gradients only.
        @tf.function(jit_compile=state.model.jit_compile, autograph=False)
        def compute_contribution(x: tf.Tensor, noise: tf.Tensor) -> training.Contribution:
            return training.compute_contribution(state.model, x, noise, batch_size)

        def take_step_on_replica(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            first = replica * share
            x_share = tf.ensure_shape(x[first : first + share], (share, x.shape[-1]))
            noise_share = tf.ensure_shape(noise[first : first + share], (share, noise.shape[-1]))
            gradients, terms = compute_contribution(x_share, noise_share)
            # Keras sums the gradients over the replicas.
            optimizer.apply(gradients, variables)
            return terms

        def take_step(x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
            terms = self.strategy.run(take_step_on_replica, (x, noise))
            return tf.add_n(self.strategy.experimental_local_results(terms))

        return training.compile_loop(take_step, batch_size, jit_compile=False, complete=self._sum_in_graph)

    def _sum_now(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the workers' values, the same on all of them."""
        return tf.function(self._sum_in_graph, autograph=False)(value)

    def _sum_in_graph(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the sum of the workers' values, inside a tf.function."""
        num_local = len(self.strategy.extended.worker_devices)

        def reduce_in_replica(value: tf.Tensor) -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            # The replicas of one worker all have that worker's value, so that one of them is enough.
            is_first = context.replica_id_in_sync_group % num_local == 0
            counted = tf.where(is_first, value, tf.zeros_like(value))
            return context.all_reduce(tf.distribute.ReduceOp.SUM, counted)

        results = self.strategy.run(reduce_in_replica, (value,))
        return self.strategy.experimental_local_results(results)[0]


def connect(link: Link) -> Replicas:
    """Returns the Replicas of a cluster's workers. TensorFlow must not have been used before.

    Raises ClusterError if TensorFlow's server cannot be started.
    """
    link.release_ports()
    # TensorFlow's coordination service waits for the other workers while it holds Python's lock. If one of them were
    # lost then, nothing could end this process. Without the service, TensorFlow waits in an all-reduce, which releases
    # the lock, so that a thread of the link can end this process. TensorFlow has no public function for this.
    eager_context.context().configure_coordination_service(service_type="")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except tf.errors.UnknownError as error:
        raise ClusterError(f"TF_CONFIG: TensorFlow cannot listen on {link.task.address}: {error.message}") from None
    finally:
        # TensorFlow may have installed its own handler for SIGTERM.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Replicas(strategy, link)


@contextlib.contextmanager
def lost_worker_reported(link: Link) -> Iterator[None]:
    """Turns an error of TensorFlow's connections into a report of which worker was lost.

    TensorFlow often notices a loss before the link does, but does not name the worker.
    """
    try:
        yield
    except LOST_WORKER_ERRORS as error:
        link.wait_for_lost_worker()
        if isinstance(error, tf.errors.InternalError):
            # It was no lost connection after all.
            raise
        reason = error.message.partition("\n")[0]
        raise ConnectionError(
            f"TensorFlow has lost a connection, but all workers answer ({reason}); what was saved is kept; to "
            "continue from there, start all workers again with --restore True"
        ) from None


def on_gpus() -> Replicas:
    """Returns the Replicas of this machine's GPUs."""
    gpus = tf.config.list_logical_devices("GPU")
    return Replicas(tf.distribute.MirroredStrategy([gpu.name for gpu in gpus]))


def digest(arrays: Sequence[np.ndarray]) -> str:
    """Returns a sha256 of arrays and their shapes, in hexadecimal."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(repr((array.shape, array.dtype.str)).encode())
        sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
