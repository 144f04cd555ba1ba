"""A redis-server of a test's own: a socket in a folder, no port."""

import os
import signal
import subprocess


class RedisServer:
    "A redis-server of this test, on a socket in its folder"

    def __init__(self, folder):
        self.socket, self.folder = folder / "r.sock", folder
        self.start()

    def start(self):
        command = [
            "redis-server",
            "--port",
            "0",
            "--unixsocket",
            self.socket,
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
        ]
        self.process = subprocess.Popen([str(c) for c in command], cwd=self.folder, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if "eady to accept connections" in line:
                return
        raise RuntimeError("redis-server did not start")

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"
