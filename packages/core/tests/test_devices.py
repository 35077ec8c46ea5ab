"""The GPU lease, with real processes over devices that exist only by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tensorbench.core import devices
from tensorbench.core.devices import lease, slurm_devices, visible

# What a worker does: says what it waits for, leases, notes when it began and ended to hold which devices.
WORKER = """
import json, os, sys, time
from tensorbench.core.devices import lease
name, count, hold, log = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
def note(**entry):
    with open(log, "a") as stream:
        stream.write(json.dumps({"name": name, "at": time.monotonic(), **entry}) + "\\n")
note(event="asked")
with lease(count) as held:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ",".join(held.devices)
    note(event="got", devices=held.devices)
    time.sleep(hold)
    note(event="left", devices=held.devices)
"""


class Yard:
    """A folder of locks, fake devices, and processes that want them."""

    def __init__(self, folder: Path) -> None:
        self.locks = folder / "locks"
        self.log = folder / "log.jsonl"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, count: int = 1, hold: float = 60.0, gpus: str = "fake0,fake1", code: str = WORKER
    ) -> None:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("SLURM_") and k != "CUDA_VISIBLE_DEVICES"
        }
        environment |= {"TENSORBENCH_GPUS": gpus, "TENSORBENCH_LEASES": str(self.locks)}
        arguments = [sys.executable, "-c", code, name, str(count), str(hold), str(self.log)]
        self.processes[name] = subprocess.Popen(arguments, env=environment)

    def events(self, event: str | None = None, name: str | None = None) -> list[dict]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        entries = [json.loads(line) for line in lines]
        return [e for e in entries if event in (None, e["event"]) and name in (None, e["name"])]

    def waiting(self) -> int:
        tickets = self.locks / "tickets"
        return len(list(tickets.iterdir())) if tickets.is_dir() else 0

    def until(self, condition, seconds: float = 30.0) -> float:
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < seconds, f"waited {seconds} s in vain; {self.events()}"
            time.sleep(0.005)
        return time.monotonic() - began

    def kill(self, name: str) -> None:
        self.processes[name].send_signal(signal.SIGKILL)
        self.processes[name].wait()


@pytest.fixture
def yard(tmp_path):
    yard = Yard(tmp_path)
    yield yard
    for process in yard.processes.values():
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("SLURM_")] + [
        "CUDA_VISIBLE_DEVICES",
        "TENSORBENCH_GPUS",
    ]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TENSORBENCH_LEASES", str(tmp_path / "locks"))


def test_never_two_holders_and_everyone_gets_a_turn(yard):
    names = [f"w{k}" for k in range(8)]
    for k, name in enumerate(names):
        yard.start(name, count=2 if k % 4 == 3 else 1, hold=0.15)
    for name in names:
        assert yard.processes[name].wait(timeout=60) == 0
    free = {"fake0": None, "fake1": None}
    for entry in yard.events():  # the log is in order of time: each line is one atomic append
        for device in entry.get("devices", ()):
            if entry["event"] == "got":
                assert free[device] is None, f"{device} held by {free[device]} and {entry['name']}"
                free[device] = entry["name"]
            else:
                free[device] = None
    assert {entry["name"] for entry in yard.events("left")} == set(names)
    assert {device for entry in yard.events("got") for device in entry["devices"]} == {"fake0", "fake1"}


def test_a_killed_holder_frees_its_device_at_once(yard):
    yard.start("holder", gpus="fake0")
    yard.until(lambda: yard.events("got", "holder"))
    yard.start("next", gpus="fake0")
    yard.until(lambda: yard.waiting() == 1)
    time.sleep(0.2)
    assert not yard.events("got", "next")
    yard.kill("holder")
    assert yard.until(lambda: yard.events("got", "next")) < 1.0


def test_a_killed_holder_frees_its_device_although_a_forked_child_lives_on(yard):
    forking = WORKER.replace(
        "time.sleep(hold)", "os.fork() or note(event='child', pid=os.getpid())\n    time.sleep(hold)"
    )
    yard.start("holder", gpus="fake0", code=forking)
    yard.until(lambda: yard.events("child"))
    child = yard.events("child")[0]["pid"]
    yard.start("next", gpus="fake0")
    yard.until(lambda: yard.waiting() == 1)
    yard.kill("holder")
    try:
        os.kill(child, 0)  # still there
        assert yard.until(lambda: yard.events("got", "next")) < 1.0
    finally:
        os.kill(child, signal.SIGKILL)


def test_first_come_first_served_and_a_killed_waiter_blocks_nobody(yard):
    yard.start("holder", gpus="fake0")
    yard.until(lambda: yard.events("got", "holder"))
    for k, name in enumerate(["first", "dies", "second", "third"]):
        yard.start(name, gpus="fake0", hold=0.05)
        yard.until(lambda k=k: yard.waiting() == k + 1)
    yard.kill("dies")
    yard.kill("holder")
    for name in ("first", "second", "third"):
        assert yard.processes[name].wait(timeout=30) == 0
    assert [entry["name"] for entry in yard.events("got")] == ["holder", "first", "second", "third"]
    assert yard.waiting() == 0


def test_a_request_for_two_is_not_starved_by_requests_for_one(yard):
    yard.start("a", hold=0.4)
    yard.start("b", hold=60.0)
    yard.until(lambda: len(yard.events("got")) == 2)
    yard.start("pair", count=2, hold=0.05)
    yard.until(lambda: yard.waiting() == 1)
    yard.start("late", hold=0.05)
    yard.until(lambda: yard.waiting() == 2)
    assert yard.processes["a"].wait(timeout=30) == 0
    time.sleep(0.3)  # one device is free now, and the late one must not take it
    assert not yard.events("got", "late")
    yard.kill("b")
    for name in ("pair", "late"):
        assert yard.processes[name].wait(timeout=30) == 0
    assert [entry["name"] for entry in yard.events("got")][2:] == ["pair", "late"]


def test_waiters_for_other_devices_do_not_hold_each_other_up(yard):
    yard.start("holder", gpus="fake0")
    yard.until(lambda: yard.events("got", "holder"))
    yard.start("waits", gpus="fake0")
    yard.until(lambda: yard.waiting() == 1)
    yard.start("elsewhere", gpus="fake1", hold=0.0)
    assert yard.processes["elsewhere"].wait(timeout=30) == 0
    assert not yard.events("got", "waits")


def test_two_leases_in_one_process_differ():
    with lease(devices=["a", "b"]) as first, lease(devices=["a", "b"]) as second:
        assert {*first.devices, *second.devices} == {"a", "b"}
        with (
            pytest.raises(TimeoutError, match=f"a last taken by process {os.getpid()}"),
            lease(devices=["a", "b"], timeout=0.1),
        ):
            pass
    with lease(2, devices=["a", "b"]) as both:
        assert both.devices == ("a", "b")


def test_the_environment_is_set_and_restored(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    with lease() as held:
        assert held.devices == ("2",) and os.environ["CUDA_VISIBLE_DEVICES"] == "2"
        assert held.source == "lease"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"
    with pytest.raises(KeyError), lease():
        raise KeyError
    with lease(2) as held:
        assert held.devices == ("2", "5")


def test_none_asked_for_means_none_seen(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with lease(0) as held:
        assert held.devices == () and os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"])
def test_what_slurm_assigned_wins_and_nothing_is_locked(monkeypatch, tmp_path, variable):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("TENSORBENCH_GPUS", "fake0")
    monkeypatch.setenv(variable, "3")
    before = dict(os.environ)
    with lease() as held, lease() as again:
        assert held.devices == again.devices == ("3",) and held.source == "slurm"
        assert dict(os.environ) == before
    assert not (tmp_path / "locks").exists()


def test_jobs_beside_each_other_in_one_allocation_share_it(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with lease() as first:
        assert first.devices == ("4",)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")  # as the other job sees it
        with lease() as second:
            assert second.devices == ("6",)


def test_a_job_without_gpus_is_not_taken_for_an_assignment(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert slurm_devices() is None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")
    assert slurm_devices() is None and visible() == []


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TENSORBENCH_GPUS": "a,b", "CUDA_VISIBLE_DEVICES": "0"}, ["a", "b"]),
        ({"CUDA_VISIBLE_DEVICES": "1, 0,1"}, ["1", "0"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,2"}, ["0"]),
    ],
)
def test_what_can_be_seen(environment, expected):
    assert visible(environment) == expected


def test_the_gpus_of_the_host_are_named_by_uuid(monkeypatch, tmp_path):
    listing = (
        "GPU 0: NVIDIA H100 (UUID: GPU-11111111-aaaa)\n"
        "GPU 1: NVIDIA H100 (UUID: GPU-22222222-bbbb)\n"
        "  MIG 1g.10gb Device 0: (UUID: MIG-33333333-cccc)\n"
        "  MIG 1g.10gb Device 1: (UUID: MIG-44444444-dddd)\n"
    )
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'EOF'\n{listing}EOF\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible() == ["GPU-11111111-aaaa", "MIG-33333333-cccc", "MIG-44444444-dddd"]


@pytest.mark.parametrize("count", [-1, 1.0, True])
def test_a_bad_count_is_refused(count):
    with pytest.raises(ValueError, match="whole number of GPUs"), lease(count):
        pass


def test_more_than_there_are_is_refused_at_once(monkeypatch):
    with (
        pytest.raises(ValueError, match=r"3 GPU asked for and only 2 can be seen \(a, b\)"),
        lease(3, devices=["a", "b"]),
    ):
        pass
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match=r"none can be seen.*device: cpu"), lease():
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match=r"2 GPU asked for and only 1 can be seen \(0\) through SLURM"), lease(2):
        pass


def test_a_lease_after_cuda_is_in_use_is_refused(monkeypatch):
    torch = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(RuntimeError, match="too late to choose a GPU"), lease(devices=["a"]):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(RuntimeError, match="set TENSORBENCH_LEASES"),
        lease(devices=["a"], folder=tmp_path / "file" / "x"),
    ):
        pass


def test_leasing_imports_neither_torch_nor_numpy():
    code = "import sys; from tensorbench.core import devices; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert devices.POLL_SECONDS <= 0.1
