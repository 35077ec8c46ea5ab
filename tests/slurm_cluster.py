"""A real SLURM of one node in a folder: its own munge, controller and node daemon, gone without a trace afterwards.

Under /etc there is nothing of it but a link, /etc/slurm/slurm.conf, without which a job's own ``srun`` would not find
the cluster; where a configuration stands there already, no cluster is started. Two device files that do nothing stand
in for GPUs. Needs root and Debian's packages ``slurm-wlm`` and ``munge``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
_ADMIN = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

_CONFIGURATION = """
ClusterName=tensorbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
MinJobAge=300
ReturnToService=2
KillWait=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=info
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


LINK = Path("/etc/slurm/slurm.conf")


def _is_stale(link: Path) -> bool:
    """Whether a test that was killed left the link behind: nothing runs where it points to."""
    if not link.is_symlink():
        return False
    try:
        os.kill(int((link.readlink().parent / "slurmctld.pid").read_text()), 0)
    except (OSError, ValueError):
        return True
    return False


def missing() -> str:
    """Why no cluster can be started here; empty where one can."""
    absent = [program for program in PROGRAMS if shutil.which(program, path=_ADMIN) is None]
    if absent:
        return f"no {', '.join(absent)} here (apt-get install slurm-wlm munge)"
    if os.getuid() != 0:
        return "starting SLURM's daemons needs root"
    if os.path.lexists(LINK) and not _is_stale(LINK):
        return f"{LINK} exists, so this machine has a SLURM of its own"
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SlurmCluster:
    """``with SlurmCluster(folder) as cluster: cluster.run("sbatch", ...)``; ``cluster.environment`` is for children."""

    def __init__(self, folder: Path, gpus: int = 2) -> None:
        self.folder = folder
        self.gpus = gpus
        self.host = socket.gethostname().partition(".")[0]
        self.configuration = folder / "slurm.conf"
        # What a surrounding job may have set is not this cluster's.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "SRUN_"))}
        programs = os.pathsep.join([str(Path(sys.executable).parent), _ADMIN])
        self.environment = {**inherited, "PATH": programs}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def run(self, *command: str, check: bool = True) -> str:
        """A client command's output."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr}")
        return done.stdout

    def __enter__(self) -> SlurmCluster:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The socket must be reachable and its parents not writable by others, or munged refuses to start.
        self.folder.chmod(0o755)
        try:
            self._configure()
            self._start_daemons()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def _configure(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        self.configuration.write_text(
            _CONFIGURATION.format(
                host=self.host,
                folder=self.folder,
                controller_port=_free_port(),
                node_port=_free_port(),
                cpus=os.cpu_count(),
                memory=memory * 9 // 10,
                gpus=self.gpus,
            )
        )
        devices = [self.folder / f"gpu{k}" for k in range(self.gpus)]
        for device in devices:  # SLURM wants device files; these are copies of /dev/null
            os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        lines = [f"NodeName={self.host} Name=gpu Flags=nvidia_gpu_env File={device}" for device in devices]
        (self.folder / "gres.conf").write_text("\n".join(["AutoDetect=off", *lines, ""]))
        LINK.parent.mkdir(exist_ok=True)
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(self.configuration)

    def _start_daemons(self) -> None:
        at = self.folder
        paths = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        self._daemon("munged", "--foreground", "--force", *(f"--{name}={at / file}" for name, file in paths.items()))
        self._until(lambda: (at / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-i", "-f", str(self.configuration))
        self._until(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld")
        self._daemon("slurmd", "-D", "-N", self.host, "-f", str(self.configuration))
        self._until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%t", check=False), "slurmd")

    def _daemon(self, *command: str) -> None:
        log = (self.folder / f"{command[0]}.out").open("wb")
        with log:
            daemon = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, start_new_session=True)
        self._daemons.append(daemon)

    def _until(self, condition, what: str, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline or self._daemons[-1].poll() is not None:
                tails = {
                    file.name: file.read_text(errors="replace")[-1500:] for file in self.folder.glob("*.[lo][ou]*")
                }
                raise RuntimeError(f"{what} did not come up: {tails}")
            time.sleep(0.1)

    def _stop(self) -> None:
        if len(self._daemons) == 3:
            with suppress(RuntimeError, subprocess.TimeoutExpired):
                self.run("scancel", "--user=root")
                self._wait_for_no_jobs()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()
        if LINK.is_symlink() and LINK.readlink() == self.configuration:
            LINK.unlink()

    def _wait_for_no_jobs(self, seconds: float = 15.0) -> None:
        deadline = time.monotonic() + seconds
        while self.run("squeue", "-h", "-o", "%i", "-t", "PENDING,RUNNING,COMPLETING").strip():
            if time.monotonic() > deadline:
                return
            time.sleep(0.2)

    def completed(self) -> dict[int, dict[str, str]]:
        """Jobs that ended, by number, as the controller noted them: state, name, times and so on."""
        file = self.folder / "completed.txt"
        jobs = {}
        for line in file.read_text().splitlines() if file.exists() else []:
            fields = dict(part.partition("=")[::2] for part in line.split() if "=" in part)
            jobs[int(fields["JobId"])] = fields
        return jobs
