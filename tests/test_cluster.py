"""The cluster of TF_CONFIG, and the plain sockets between its workers; without TensorFlow."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from workers import MARK, ROOT, free_ports, tf_config

from vae import cluster

TWO = {"worker": ["a:1", "b:2"]}

# A worker that takes part in a cluster, and then does what the test says.
WORKER = """
import json, os, signal, sys, time
from vae import cluster
# A process that is started in the background of a shell ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
cluster.REPORT_SECONDS = 0.3
cluster.HEARTBEAT_SECONDS = 0.2
cluster.LOST_SECONDS = 2.0
cluster.GRACE_SECONDS = 0.2
parsed = cluster.parse_tf_config(os.environ["TF_CONFIG"])
def ending_of(error):
    return 7, str(error)
try:
    with cluster.joined(parsed, float(sys.argv[1]), ending_of) as link:
        print("met", flush=True)
        {action}
except Exception as error:
    print(error, file=sys.stderr)
    sys.exit(7)
"""


@pytest.fixture
def start():
    """Returns a function that starts a worker with an action, and ends all of them after the test."""
    processes = []

    def start_worker(ports, index, action="link.exchange(0)", timeout=20, host="127.0.0.1"):
        environment = MARK | {
            "TF_CONFIG": tf_config(ports, index, host=host),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-c", WORKER.format(action=action), str(timeout)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield start_worker
    for process in processes:
        process.kill()
        process.communicate()


def ending(process):
    """Returns a worker's exit code, and what it wrote to both streams."""
    output, errors = process.communicate(timeout=20)
    return process.returncode, output, errors


def without_reports(errors):
    """Returns an error output without the lines on who is awaited, which a busy machine may add."""
    return "".join(line for line in errors.splitlines(keepends=True) if not line.startswith("waiting for"))


def parse(jobs, task=None):
    return cluster.parse_tf_config(json.dumps({"cluster": jobs, "task": task or {"type": "worker", "index": 0}}))


# ---- TF_CONFIG -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {}}', '{"task": {"type": "worker", "index": 0}}'])
def test_without_a_cluster_there_is_one_process(text):
    assert cluster.parse_tf_config(text) is None


def test_a_cluster_of_one_worker_is_one_process():
    assert parse({"worker": ["a:1"]}) is None
    assert parse({"chief": ["a:1"]}, {"type": "chief", "index": 0}) is None


def test_worker_0_is_the_chief_unless_there_is_a_job_of_that_name():
    assert parse(TWO, {"type": "worker", "index": 1}).index == 1
    with_chief = parse({"worker": ["a:1", "b:2"], "chief": ["c:3"]}, {"type": "worker", "index": "1"})
    assert [str(task) for task in with_chief.tasks] == ["chief (c:3)", "worker 0 (a:1)", "worker 1 (b:2)"]
    assert with_chief.index == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "takes JSON, got '{'"),
        ("[" * 100_000, "takes JSON, got '[[["),
        ("[]", "takes an object"),
        ('{"cluster": []}', "takes an object"),
        ('{"cluster": {"ps": ["a:1"]}}', "got 'ps'"),
        ('{"cluster": {"worker": ["a:1", "b:2"], "evaluator": ["a:1"]}}', "got 'evaluator'"),
        ('{"cluster": {"worker": "a:1"}}', "list of 'host:port', got 'a:1'"),
        ('{"cluster": {"worker": []}}', "list of 'host:port', got []"),
        ('{"cluster": {"worker": ["a"]}}', "list of 'host:port', got ['a']"),
        ('{"cluster": {"worker": ["a:65536"]}}', "list of 'host:port'"),
        (f'{{"cluster": {{"worker": ["a:{"1" * 5000}"]}}}}', "list of 'host:port'"),
        ('{"cluster": {"worker": ["a..b:1"]}}', "list of 'host:port', got ['a..b:1']"),
        ('{"cluster": {"worker": ["a\\n:1"]}}', "list of 'host:port', got ['a\\n:1']"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}', "more than one task"),
        ('{"cluster": {"chief": ["a:1", "b:2"]}}', "one chief, got 2"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}}', "'type' and 'index', got None"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "chief", "index": 0}}', "got 'chief'"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 3}}', "takes 0 to 1"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": -1}}', "takes 0 to 1"),
        (
            f'{{"cluster": {{"worker": ["a:1", "b:2"]}}, "task": {{"type": "worker", "index": "{"9" * 5000}"}}}}',
            "takes 0 to 1",
        ),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": ["worker"], "index": 0}}', "got ['worker']"),
        ('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "evaluator", "index": 0}}', "got 'evaluator'"),
    ],
)
def test_a_bad_tf_config_ends_in_one_line_and_exit_code_2_before_tensorflow_is_imported(text, expected):
    code = "import sys, train; code = train.main([]); print('tensorflow' in sys.modules); sys.exit(code)"
    environment = {"TF_CONFIG": text, "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "False\n"
    assert done.stderr.count("\n") == 1 and len(done.stderr) < 500
    assert "TF_CONFIG" in done.stderr and expected in done.stderr


# ---- The workers ---------------------------------------------------------------------------------------------------


def test_workers_meet_in_any_order_and_exchange_values(start):
    ports = free_ports(3)
    action = "print(link.exchange(link.index * 10)); print(link.exchange('x'))"
    processes = [start(ports, index, action) for index in (2, 0, 1)]
    for process in processes:
        code, output, errors = ending(process)
        assert (code, output) == (0, "met\n[0, 10, 20]\n['x', 'x', 'x']\n") and without_reports(errors) == ""


def test_workers_say_whom_they_wait_for_and_give_up(start):
    ports = free_ports(3)
    processes = [start(ports, index, timeout=5) for index in (0, 1)]
    missing = f"worker 2 (127.0.0.1:{ports[2]})"
    for process in processes:
        code, output, errors = ending(process)
        assert code == 7 and output == ""
        assert f"waiting for {missing}\n" in errors
        assert f"no answer within 5 s from {missing}; to wait longer: --worker_timeout" in errors
        assert errors.count(f"waiting for {missing}\n") >= 3


def test_a_worker_without_a_chief_waits_for_it_and_gives_up(start):
    ports = free_ports(2)
    code, _, errors = ending(start(ports, 1, timeout=1))
    assert code == 7
    chief = f"worker 0 (127.0.0.1:{ports[0]}): Connection refused"
    assert f"waiting for {chief}\n" in errors and f"no answer within 1 s from {chief}; " in errors


@pytest.mark.parametrize("index", [0, 1])
def test_ctrl_c_works_while_a_worker_waits(index, start):
    process = start(free_ports(2), index)
    assert "waiting for" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert ending(process)[0] == -signal.SIGINT


def test_a_port_that_is_taken_is_refused(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = [other.getsockname()[1], *free_ports(1)]
        code, _, errors = ending(start(ports, 0))
    assert code == 7
    assert (
        errors == f"TF_CONFIG: cannot listen on 127.0.0.1:{ports[0]}, this worker's address: Address already in use\n"
    )


def test_the_chief_learns_that_a_worker_cannot_listen(start):
    with socket.create_server(("", 0)) as other:
        ports = [*free_ports(1), other.getsockname()[1]]
        chief = start(ports, 0)
        worker = start(ports, 1)
        reason = f"cannot listen on 127.0.0.1:{ports[1]}, this worker's address: Address already in use\n"
        for process in (chief, worker):
            code, _, errors = ending(process)
            assert code == 7 and errors.endswith(reason)


def test_workers_of_different_clusters_are_refused(start):
    ports = free_ports(3)
    chief = start(ports[:2], 0)
    other = start([ports[0], ports[2]], 1)
    for process in (chief, other):
        code, _, errors = ending(process)
        assert code == 2 and "has another cluster in its TF_CONFIG" in errors


def test_two_processes_with_the_same_index_are_refused(start):
    """On one machine the port would be taken. Here, two plain sockets stand for processes on two machines."""
    ports = free_ports(3)
    chief = start(ports, 0)
    hello = json.dumps({"index": 1, "addresses": [f"127.0.0.1:{port}" for port in ports]}) + "\n"
    assert "waiting for worker 1" in chief.stderr.readline()
    with socket.create_connection(("127.0.0.1", ports[0])) as first:
        first.sendall(hello.encode())
        while "worker 1" in chief.stderr.readline():
            pass
        with socket.create_connection(("127.0.0.1", ports[0])) as second:
            second.sendall(hello.encode())
            answer = json.loads(second.makefile().readline())
    assert answer["exit_code"] == 2
    assert f"another process takes part as worker 1 (127.0.0.1:{ports[1]})" in answer["end"]


def test_all_workers_print_whose_value_is_missing(start):
    ports = free_ports(3)
    actions = ("link.exchange(0)", "link.exchange(0)", "time.sleep(3); link.exchange(0)")
    processes = [start(ports, index, action) for index, action in enumerate(actions)]
    for process in processes[:2]:
        code, _, errors = ending(process)
        assert code == 0 and errors.count(f"waiting for worker 2 (127.0.0.1:{ports[2]})\n") >= 3


def test_another_program_at_the_chiefs_address_is_not_taken_for_it(start):
    """The other program may be TensorFlow in an earlier run. The worker waits until the chief has the port."""
    ports = free_ports(2)
    with socket.create_server(("127.0.0.1", ports[0])) as other:
        worker = start(ports, 1, timeout=20)
        stranger, _ = other.accept()
        with stranger:
            stranger.sendall(b"SSH-2.0-stranger\r\n")
            line = worker.stderr.readline()
            assert line.startswith(f"waiting for worker 0 (127.0.0.1:{ports[0]}): another program answers there")
    chief = start(ports, 0)
    assert ending(chief)[0] == ending(worker)[0] == 0


@pytest.mark.parametrize(("exit_code", "expected"), [(None, 1), (0, 1), (256, 1), (2**40, 1), ("2", 1), (2, 2)])
def test_the_end_of_another_worker_is_never_a_success(exit_code, expected):
    assert cluster.exit_code_in({"end": "the end", "exit_code": exit_code}) == expected


def test_a_block_is_completed_before_the_loss_of_a_worker_ends_the_process(start):
    ports = free_ports(2)
    saving = "with link.undisturbed(): print('saving', flush=True); time.sleep(4); print('saved', flush=True)"
    chief = start(ports, 0, f"{saving}\n        time.sleep(60)")
    worker = start(ports, 1, "time.sleep(60)")
    assert [chief.stdout.readline(), chief.stdout.readline()] == ["met\n", "saving\n"]
    worker.kill()
    code, output, errors = ending(chief)
    assert code == 1 and output == "saved\n" and "was lost" in errors


def test_a_worker_that_waits_for_one_that_has_ended_ends(start):
    ports = free_ports(2)
    chief = start(ports, 0, "link.exchange(0)")
    worker = start(ports, 1, "pass")
    assert ending(worker)[0] == 0
    code, output, errors = ending(chief)
    assert (code, output) == (7, "met\n") and f"worker 1 (127.0.0.1:{ports[1]}) has ended" in errors


def test_the_ports_are_free_once_they_are_released(start):
    ports = free_ports(2)
    action = f"link.release_ports(); import socket; socket.create_server(('', {ports}[link.index])).close()"
    for process in [start(ports, index, action) for index in range(2)]:
        code, output, errors = ending(process)
        assert (code, output) == (0, "met\n") and without_reports(errors) == ""


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_workers_meet_over_ipv6(start):
    ports = free_ports(2)
    for process in [start(ports, index, host="[::1]") for index in range(2)]:
        assert ending(process)[0] == 0


def test_strangers_are_turned_away(start):
    ports = free_ports(2)
    chief = start(ports, 0)
    assert "waiting for" in chief.stderr.readline()
    nested = b"[" * 100_000 + b"\n"
    for line in (b"GET / HTTP/1.1\r\n", b'{"index": 0}\n', b'{"index": "1"}\n', b"[]\n", b"\xff\n", nested):
        with socket.create_connection(("127.0.0.1", ports[0])) as stranger:
            stranger.sendall(line)
            assert stranger.recv(1) == b""
    worker = start(ports, 1)
    for process in (chief, worker):
        code, _, errors = ending(process)
        assert code == 0 and "Traceback" not in errors


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_error_of_one_worker_reaches_all_with_its_exit_code(failing, start):
    ports = free_ports(3)
    action = f"if link.index == {failing}: raise OSError('the disk is full')\n        time.sleep(60)"
    processes = [start(ports, index, action) for index in range(3)]
    for index, process in enumerate(processes):
        code, _, errors = ending(process)
        name = "" if index == failing else f"-c: error: worker {failing} (127.0.0.1:{ports[failing]}): "
        assert (code, without_reports(errors)) == (7, f"{name}the disk is full\n")


@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_is_killed_or_stopped_is_named_by_the_others(lost, number, start):
    ports = free_ports(3)
    processes = [start(ports, index, "time.sleep(60)") for index in range(3)]
    for process in processes:
        assert process.stdout.readline() == "met\n"
    processes[lost].send_signal(number)
    started = time.monotonic()
    for index, process in enumerate(processes):
        if index != lost:
            code, _, errors = ending(process)
            assert code == 1
            assert f"worker {lost} (127.0.0.1:{ports[lost]}) was lost; what was saved is kept" in errors
            assert "--restore True" in errors
    assert time.monotonic() - started < 15
