"""An OpenSSH server on 127.0.0.1, with a throw-away key, that lets the user of the tests in."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import free_port, wait_for

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd here: apt-get install openssh-server")


@dataclass(frozen=True)
class SshServer:
    """Where it listens, and the key that it lets in."""

    port: int
    key: Path

    def machine(self):
        """Return it as a machine of NNI's remote service."""
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "sshKeyFile": str(self.key),
            "pythonPath": str(Path(sys.executable).parent),
        }


@contextmanager
def ssh_server(folder, **environment):
    """Run a server whose files are in a folder; commands that come in see the environment that is given."""
    for name in ("host", "client"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f", folder / name], check=True
        )
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # which sshd wants, and a package's service would make
    port = free_port()
    pairs = " ".join(f'"{name}={value}"' for name, value in environment.items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder / 'client.pub'}\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"Subsystem sftp internal-sftp\nMaxSessions 100\nMaxStartups 100\nSetEnv {pairs}\n"
    )
    log = (folder / "sshd.log").open("w")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        wait_for(lambda: server.poll() is not None or answers(port), seconds=20)
        assert server.poll() is None, (folder / "sshd.log").read_text()
        yield SshServer(port, folder / "client")
    finally:
        server.terminate()
        server.wait()
        log.close()


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
