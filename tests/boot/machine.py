"""An emulated arm64 machine: qemu, and a root shell on its serial console."""

import re
import socket
import subprocess
import time
from pathlib import Path

# Emulated without KVM, on a busy machine: a boot that takes 10 s alone can take minutes.
PATIENCE = 900.0


class Machine:
    """It runs from the construction until `power_off`, which is as sudden as the name says."""

    def __init__(self, base: Path, initrd: Path, disk: Path, log: Path, clock: str = "utc") -> None:
        self.console = log.with_suffix(".sock")
        self.console.unlink(missing_ok=True)
        self.log = log.open("ab", buffering=0)
        self.text = b""
        self.commands = 0
        self.qemu = subprocess.Popen(
            [
                "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a72", "-m", "2000",
                "-display", "none", "-monitor", "none", "-no-reboot",
                "-kernel", str(base / "vmlinuz"), "-initrd", str(initrd),
                "-append", "console=ttyAMA0 rdinit=/sbin/init panic=-1 quiet systemd.show_status=0"
                " systemd.default_timeout_start_sec=900 loglevel=1",
                "-serial", f"unix:{self.console},server=on,wait=off",
                # What the guest flushed is with the host; what it did not is gone with qemu.
                "-drive", f"file={disk},if=virtio,format=raw,cache=writeback",
                "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
                "-rtc", f"base={clock}",
            ],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.socket = socket.socket(socket.AF_UNIX)
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.socket.connect(str(self.console))
                break
            except OSError:
                if self.qemu.poll() is not None or time.monotonic() > end:
                    raise SystemExit("boot: qemu did not start") from None
                time.sleep(0.05)
        try:
            self.log_in()
        except SystemExit:
            self.power_off()
            raise

    def log_in(self) -> None:
        self.await_text(rb"login: root \(automatic login\).*[#$] $")
        # Neither an echo nor a prompt: what comes is what commands print.
        self.socket.sendall(b"stty -echo -onlcr; PS1=; export TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_URLIFY=0; bind 'set enable-bracketed-paste off'\n")
        self.run("true")

    def await_text(self, pattern: bytes, patience: float = PATIENCE) -> bytes:
        """Reads the console up to this, and gives all of it."""
        end = time.monotonic() + patience
        while not (found := re.search(pattern, self.text, re.DOTALL)):
            self.socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                more = b""
            if not more:
                tail = self.text[-2000:].decode(errors="replace")
                raise SystemExit(f"boot: no {pattern!r} on the console; its end:\n{tail}")
            self.log.write(more)
            self.text += more
        before, self.text = self.text[: found.end()], self.text[found.end() :]
        return before

    def run(self, command: str, patience: float = PATIENCE) -> tuple[int, str]:
        """One command in the machine: its exit code and what it printed."""
        self.commands += 1
        mark = f"{self.commands}"
        self.socket.sendall(f"{command}\necho \"<en\"\"d {mark} $?>\"\n".encode())
        text = self.await_text(f"<end {mark} (\\d+)>\r?\n".encode(), patience)
        found = re.search(f"(.*)<end {mark} (\\d+)>".encode(), text, re.DOTALL)
        assert found
        return int(found[2]), found[1].decode(errors="replace").replace("\r", "").strip()

    def ask(self, command: str) -> str:
        """What a command prints; it has to succeed."""
        code, text = self.run(command)
        if code:
            raise SystemExit(f"boot: `{command}` ended with {code}:\n{text}")
        return text

    def power_off(self) -> None:
        """As if the plug was pulled."""
        self.qemu.kill()
        self.qemu.wait()
        self.socket.close()
        self.log.close()
