"""The processes that train one model together: TensorFlow's variable TF_CONFIG, and what they tell each other.

Every process of a cluster is called a worker here; the first one is the chief. Each worker has a plain socket to the
chief, from before TensorFlow connects them until the run ends. It carries small messages only: who is there, that
a process is alive, values that all must know, and how a process ends. The gradients go through TensorFlow. Its waiting
cannot be interrupted, and its errors do not name the missing worker. Waiting on a plain socket can be interrupted, and
a socket that fails shows which worker is missing.
"""

import contextlib
import json
import os
import queue
import reprlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

# A worker says every so often that it is alive. If it has been silent for longer than the limit, it counts as lost.
HEARTBEAT_SECONDS = 3.0
LOST_SECONDS = 25.0
# How often a worker says whom it waits for, and how often it tries to reach a chief that does not answer yet.
REPORT_SECONDS = 10.0
RETRY_SECONDS = 0.2
# How long a worker that cannot take part tries to reach the chief, to tell it why.
FAREWELL_SECONDS = 5.0
# When another worker ends with an error, this one may be about to report the same error in its own words.
GRACE_SECONDS = 1.0
# How long the end of this process is put off until a save is complete.
SAVE_SECONDS = 60.0
# How many connections of strangers may wait at a worker's port, besides those of the other workers.
BACKLOG = 128

JOBS = ("chief", "worker")

# Takes the place of the next value of a worker that has ended.
HAS_ENDED = object()


class ClusterError(ValueError):
    """TF_CONFIG, or an address in it, cannot be used."""


class Task(NamedTuple):
    """A worker's name, "chief" or "worker 1" for example, and its address, "host:port"."""

    name: str
    address: str

    def __str__(self) -> str:
        return f"{self.name} ({self.address})"


@dataclass(frozen=True)
class Cluster:
    """All workers, the chief first, and which of them this process is."""

    tasks: tuple[Task, ...]
    index: int


# ---- TF_CONFIG -----------------------------------------------------------------------------------------------------


def parse_tf_config(text: str) -> Cluster | None:
    """Returns the cluster that TF_CONFIG describes, or None if it has no more than one worker.

    Raises ClusterError with one line that says what is wrong.
    """
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"TF_CONFIG takes JSON, got {shorten(text)!r} ({error})") from None
    if not isinstance(content, dict) or not isinstance(content.get("cluster", {}), dict):
        raise ClusterError(f"TF_CONFIG takes an object with 'cluster' and 'task', got {shorten(text)!r}")
    addresses_of_jobs = content.get("cluster", {})
    if not addresses_of_jobs:
        return None
    for job, addresses in addresses_of_jobs.items():
        check_job(job, addresses)
    tasks = list_tasks(addresses_of_jobs)
    index = index_of_task(content.get("task"), addresses_of_jobs)
    if len(tasks) == 1:
        return None
    return Cluster(tuple(tasks), index)


def check_job(job: str, addresses: Any) -> None:
    """Raises ClusterError unless a job is one of JOBS, and its addresses are a list of "host:port"."""
    if job not in JOBS:
        raise ClusterError(f"TF_CONFIG: a cluster takes the jobs {' and '.join(JOBS)}, got {reprlib.repr(job)}")
    if not isinstance(addresses, list) or not addresses or not all(is_address(address) for address in addresses):
        raise ClusterError(f"TF_CONFIG: the job {job!r} takes a list of 'host:port', got {reprlib.repr(addresses)}")
    if job == "chief" and len(addresses) > 1:
        raise ClusterError(f"TF_CONFIG: a cluster takes one chief, got {len(addresses)}")


def is_address(value: Any) -> bool:
    """Returns whether a value is an address of the form "host:port"."""
    if not isinstance(value, str):
        return False
    host, _, port = value.rpartition(":")
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return bool(host) and host.isprintable() and is_whole_number(port) and 0 < int(port) < 2**16


def is_whole_number(text: str) -> bool:
    """Returns whether a text is a whole number of at most 9 digits, with no sign."""
    return text.isascii() and text.isdigit() and len(text) <= 9


def shorten(text: str) -> str:
    """Returns a text, or its beginning if it is long."""
    return text if len(text) <= 200 else f"{text[:200]}..."


def list_tasks(addresses_of_jobs: dict[str, list[str]]) -> list[Task]:
    """Returns the tasks, the chief first. Without a job of that name, worker 0 is the chief."""
    tasks = [Task("chief", address) for address in addresses_of_jobs.get("chief", [])]
    tasks += [Task(f"worker {i}", address) for i, address in enumerate(addresses_of_jobs.get("worker", []))]
    addresses = [task.address for task in tasks]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ClusterError(f"TF_CONFIG: the address {address} belongs to more than one task")
    return tasks


def index_of_task(task: Any, addresses_of_jobs: dict[str, list[str]]) -> int:
    """Returns the place of this process in list_tasks, for the 'task' of TF_CONFIG: {"type": ..., "index": ...}."""
    if not isinstance(task, dict):
        raise ClusterError(f"TF_CONFIG takes a 'task' with 'type' and 'index', got {reprlib.repr(task)}")
    job = task.get("type")
    if not isinstance(job, str) or job not in addresses_of_jobs:
        jobs = " or ".join(addresses_of_jobs)
        raise ClusterError(f"TF_CONFIG: the task's type takes {jobs} in this cluster, got {reprlib.repr(job)}")
    num_tasks = len(addresses_of_jobs[job])
    # Shell scripts tend to write the index with quotation marks, which TensorFlow accepts.
    index = task.get("index")
    if not isinstance(index, int | str) or not is_whole_number(str(index)) or int(index) >= num_tasks:
        raise ClusterError(
            f"TF_CONFIG: the task's index takes 0 to {num_tasks - 1} for a {job}, got {reprlib.repr(index)}"
        )
    num_before = len(addresses_of_jobs.get("chief", [])) if job == "worker" else 0
    return num_before + int(index)


# ---- Messages ------------------------------------------------------------------------------------------------------


class Connection:
    """A socket that carries messages, each a JSON object in a line of its own."""

    def __init__(self, plain_socket: socket.socket) -> None:
        plain_socket.settimeout(LOST_SECONDS)
        plain_socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = plain_socket
        self._lines = plain_socket.makefile("r", encoding="utf-8")
        self._lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Sends a message. Nothing happens if the other end is gone: `receive` finds that out."""
        line = json.dumps(message) + "\n"
        with self._lock, contextlib.suppress(OSError):
            self._socket.sendall(line.encode())

    def receive(self) -> dict[str, Any] | None:
        """Waits for the next message; returns None if the other end is gone, silent, or sends something else."""
        try:
            message = json.loads(self._lines.readline(2**20))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(message, dict):
            return None
        return message

    def close(self) -> None:
        """Closes the socket, which ends a `receive` on either end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Link:
    """This process's connections to the other workers: the chief has one to each of them, the others one to the chief.

    A thread for each connection receives its messages. If another worker is lost or ends with an error, the thread
    reports it and ends this process at once, since the main thread may be waiting inside TensorFlow for ever. Only a
    block of `undisturbed` is completed first.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.tasks = cluster.tasks
        self.index = cluster.index
        self._connections: dict[int, Connection] = {}
        self._values: dict[int, queue.SimpleQueue] = {i: queue.SimpleQueue() for i in range(len(cluster.tasks))}
        self._is_ending = threading.Event()
        self._save_lock = threading.Lock()
        self._listener: socket.socket | None = None

    @property
    def task(self) -> Task:
        """The name and address of this process."""
        return self.tasks[self.index]

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that reads and writes the run's folder."""
        return self.index == 0

    def meet(self, timeout: float) -> None:
        """Waits until all workers have started and reach each other, and prints every 10 s which ones are missing.

        The port stays taken until release_ports. Raises ClusterError if another process has it, and TimeoutError if
        another worker does not answer within `timeout` seconds.
        """
        threading.Thread(target=self._beat, daemon=True).start()
        try:
            self._listener = self._listen()
        except ClusterError:
            if not self.is_chief:
                with contextlib.suppress(TimeoutError):
                    self._connect_to_chief(FAREWELL_SECONDS)
            raise
        if self.is_chief:
            self._accept_all(self._listener, timeout)
        else:
            self._connect_to_chief(timeout)
        # TensorFlow connects each worker to all others, so a firewall between two of them is found here.
        # The chief's answer also tells the others that all have started.
        self.exchange(None)
        deadline = time.monotonic() + timeout
        for index, task in enumerate(self.tasks):
            if index != self.index:
                wait_for_answer(task, timeout, deadline).close()
        self.exchange(None)

    def release_ports(self) -> None:
        """Frees the workers' ports for TensorFlow, and returns when all workers have done so."""
        self._close_listener()
        self.exchange(None)

    def exchange(self, value: Any) -> list[Any]:
        """Returns the values that all workers give, the chief's first. Every worker must call it; JSON values only.

        While the chief waits for another worker's value, all workers print every 10 s which worker is missing. Raises
        ConnectionError if another worker has ended instead.
        """
        if not self.is_chief:
            self._connections[0].send(value=value)
            return self._next_value(0)
        others = [self._next_value(i) for i in range(1, len(self.tasks))]
        values = [value, *others]
        for connection in self._connections.values():
            connection.send(value=values)
        return values

    def end(self, exit_code: int, message: str) -> None:
        """Tells the other workers that this one ends, and why. They end with the same exit code."""
        self._is_ending.set()
        for connection in list(self._connections.values()):
            connection.send(end=f"{self.task}: {message}", exit_code=exit_code)

    def say_goodbye(self) -> None:
        """Lets the other workers know that this one has done its work, and is not lost."""
        self._is_ending.set()
        for connection in list(self._connections.values()):
            connection.send(goodbye=True)

    def close(self) -> None:
        """Closes all connections. Without a goodbye or an end, the other workers take this one for lost."""
        self._is_ending.set()
        for connection in list(self._connections.values()):
            connection.close()
        self._close_listener()

    def wait_for_lost_worker(self) -> None:
        """Waits until a thread has found out which worker was lost, and has ended this process.

        Returns after about twice LOST_SECONDS if no worker was lost.
        """
        # A worker that ends with an error says so before TensorFlow notices, and then needs no report.
        time.sleep(2 * GRACE_SECONDS)
        report("TensorFlow reports an error; finding out whether a worker was lost")
        time.sleep(2 * LOST_SECONDS)

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Lets the block complete, a save for example, before the end of another worker ends this process."""
        with self._save_lock:
            yield

    def _close_listener(self) -> None:
        """Frees this worker's port, if it still has it."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _next_value(self, index: int) -> Any:
        """Waits for the next value of another worker. Raises ConnectionError if that one has ended.

        The chief tells all workers whom it waits for. The others print nothing of their own, since the chief may be
        waiting for a third worker.
        """
        while True:
            try:
                value = self._values[index].get(timeout=REPORT_SECONDS)
            except queue.Empty:
                if self.is_chief:
                    self._report_missing([str(self.tasks[index])])
            else:
                break
        if value is HAS_ENDED:
            raise ConnectionError(f"{self.tasks[index]} has ended")
        return value

    def _report_missing(self, missing: Sequence[str]) -> None:
        """Lets all connected workers print which ones the chief waits for."""
        report(f"waiting for {', '.join(missing)}")
        for connection in list(self._connections.values()):
            connection.send(waiting_for=missing)

    def _listen(self) -> socket.socket:
        """Returns a socket that listens on this worker's port, on all interfaces, as TensorFlow will."""
        address = self.task.address
        port = int(address.rpartition(":")[2])
        backlog = BACKLOG + len(self.tasks)
        try:
            if socket.has_dualstack_ipv6():
                return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=backlog)
            return socket.create_server(("", port), backlog=backlog)
        except OSError as error:
            raise ClusterError(
                f"TF_CONFIG: cannot listen on {address}, this worker's address: {reason_of(error)}"
            ) from None

    def _accept_all(self, listener: socket.socket, timeout: float) -> None:
        """Accepts a connection from each of the other workers."""
        started = time.monotonic()
        last_report = started
        listener.settimeout(RETRY_SECONDS)
        while len(self._connections) < len(self.tasks) - 1:
            try:
                plain_socket, _ = listener.accept()
                threading.Thread(target=self._greet, args=(Connection(plain_socket),), daemon=True).start()
            except TimeoutError:
                pass
            except OSError:
                # The connection was closed again, or this process has too many files open.
                time.sleep(RETRY_SECONDS)
            missing = [str(task) for i, task in enumerate(self.tasks) if i > 0 and i not in self._connections]
            now = time.monotonic()
            if missing and now - started > timeout:
                raise TimeoutError(describe_timeout(missing, timeout))
            if missing and now - last_report > REPORT_SECONDS:
                self._report_missing(missing)
                last_report = now

    def _greet(self, connection: Connection) -> None:
        """Finds out which worker has connected, and receives its messages. Strangers are turned away."""
        hello = connection.receive() or {}
        index = hello.get("index")
        if not isinstance(index, int) or not 0 < index < len(self.tasks):
            connection.close()
            return
        if index in self._connections:
            reason = f"another process takes part as {self.tasks[index]}: check the task's index in TF_CONFIG"
            connection.send(end=reason, exit_code=2)
            connection.close()
            return
        addresses = [task.address for task in self.tasks]
        connection.send(welcome=True)
        self._connections[index] = connection
        if hello.get("addresses") != addresses:
            self._end_because(f"{self.tasks[index]} has another cluster in its TF_CONFIG", exit_code=2)
        self._receive(index)

    def _connect_to_chief(self, timeout: float) -> None:
        """Connects to the chief as soon as it answers.

        Another program may have the chief's port, TensorFlow in an earlier run for example. So only a chief that
        welcomes this worker, or says why it does not, counts as one.
        """
        deadline = time.monotonic() + timeout
        chief = self.tasks[0]
        while True:
            connection = Connection(wait_for_answer(chief, timeout, deadline))
            connection.send(index=self.index, addresses=[task.address for task in self.tasks])
            answer = connection.receive() or {}
            if "welcome" in answer:
                break
            connection.close()
            if "end" in answer:
                self._end_because(answer["end"], exit_code_in(answer))
            stranger = f"{chief}: another program answers there"
            seconds_left = deadline - time.monotonic()
            if seconds_left < 0:
                raise TimeoutError(describe_timeout([stranger], timeout))
            report(f"waiting for {stranger}")
            time.sleep(min(REPORT_SECONDS, seconds_left))
        self._connections[0] = connection
        threading.Thread(target=self._receive, args=(0,), daemon=True).start()

    def _beat(self) -> None:
        """Says that this process is alive, until it ends."""
        while not self._is_ending.wait(HEARTBEAT_SECONDS):
            for connection in list(self._connections.values()):
                connection.send()

    def _receive(self, index: int) -> None:
        """Receives the messages of another worker until one of the two ends."""
        while True:
            message = self._connections[index].receive()
            if message is None:
                self._end_because(describe_loss(self.tasks[index]), exit_code=1)
                return
            if "goodbye" in message:
                self._values[index].put(HAS_ENDED)
                return
            if "end" in message:
                time.sleep(GRACE_SECONDS)
                self._end_because(message["end"], exit_code_in(message))
                return
            if "waiting_for" in message:
                report(f"waiting for {', '.join(message['waiting_for'])}")
            if "value" in message:
                self._values[index].put(message["value"])

    def _end_because(self, reason: str, exit_code: int) -> None:
        """Ends this process because another worker ended or was lost, unless it is ending already."""
        if self._is_ending.is_set():
            return
        self._is_ending.set()
        for connection in list(self._connections.values()):
            connection.send(end=reason, exit_code=exit_code)
        # A save on a disk that does not answer must not keep the process alive for ever.
        self._save_lock.acquire(timeout=SAVE_SECONDS)
        end_process(reason, exit_code)


def wait_for_answer(task: Task, timeout: float, deadline: float) -> socket.socket:
    """Returns a socket that is connected to another worker, once that one answers.

    Raises TimeoutError if it has not answered when time.monotonic() reaches the deadline, which was `timeout` seconds
    away when the waiting began.
    """
    host, _, port = task.address.rpartition(":")
    last_report = time.monotonic()
    reason = "no answer"
    while True:
        try:
            answer = socket.create_connection((host.strip("[]"), int(port)), timeout=REPORT_SECONDS)
            # On one machine, a socket that tries for long enough may connect to itself.
            if answer.getsockname() != answer.getpeername():
                return answer
            answer.close()
        except OSError as error:
            reason = reason_of(error)
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(describe_timeout([f"{task}: {reason}"], timeout))
        if now - last_report > REPORT_SECONDS:
            report(f"waiting for {task}: {reason}")
            last_report = now
        time.sleep(RETRY_SECONDS)


def describe_timeout(missing: Sequence[str], timeout: float) -> str:
    """Returns the error for workers that have not started in time."""
    return f"no answer within {timeout:g} s from {', '.join(missing)}; to wait longer: --worker_timeout"


def reason_of(error: OSError) -> str:
    """Returns the reason for an error in a few words, "Connection refused" for example."""
    if error.errno is None or error.strerror is None:
        return str(error)
    if isinstance(error, socket.gaierror):
        return error.strerror
    return os.strerror(error.errno)


def exit_code_in(message: dict[str, Any]) -> int:
    """Returns the exit code in a message about the end of another worker. Its end never counts as a success."""
    exit_code = message.get("exit_code")
    if isinstance(exit_code, int) and 0 < exit_code < 256:
        return exit_code
    return 1


def describe_loss(task: Task) -> str:
    """Returns the error for a worker that stopped without a message."""
    return (
        f"{task} was lost; what was saved is kept; to continue from there, start all workers again with --restore True"
    )


def report(message: str) -> None:
    """Prints a message to standard error."""
    print(message, file=sys.stderr, flush=True)


def end_process(message: str, exit_code: int) -> NoReturn:
    """Prints an error and ends this process at once, from any thread. TensorFlow may be waiting in another one."""
    try:
        report(f"{os.path.basename(sys.argv[0])}: error: {message}")
        sys.stdout.flush()
    finally:
        os._exit(exit_code)


@contextlib.contextmanager
def joined(cluster: Cluster, timeout: float, ending_of: Callable[[BaseException], tuple[int, str]]) -> Iterator[Link]:
    """Yields the Link of this process to the other workers, once all of them have started: see Link.meet.

    If the block fails, the others end with the exit code and the message that ending_of(error) returns.
    """
    link = Link(cluster)
    try:
        link.meet(timeout)
        yield link
    except BaseException as error:
        link.end(*ending_of(error))
        raise
    else:
        link.say_goodbye()
    finally:
        link.close()
