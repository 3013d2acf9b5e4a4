"""Under what addresses the HTTP face is reached."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import quote

from bridge.errors import SettingsError
from bridge.settings import Settings


class Addresses:
    """The addresses that the settings give."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        host = _shown(reachable(settings.http.host))
        self.base = settings.http.public_url or f"http://{host}:{settings.http.port}"
        """Where others reach us, without a slash at the end."""
        self.relay = f"ws://{host}:{settings.relay.port}" if settings.relay.port else None

    def job(self, job_id: str) -> str:
        """Where a job is."""
        return f"{self.base}/api/jobs/{quote(job_id, safe='')}"

    def output(self, job_id: str, n: int) -> str:
        """Where the bytes of an output are."""
        return f"{self.job(job_id)}/outputs/{n}"

    def preview(self, job_id: str) -> str:
        """Where a job's latest preview is."""
        return f"{self.job(job_id)}/preview"


def check_listening(settings: Settings) -> None:
    """Raise SettingsError if others could reach us and no token is asked, or one port is to be for two things."""
    http = settings.http
    if http.port and http.port == settings.relay.port:
        raise SettingsError(f"http.port and relay.port are both {http.port}; choose two, or 0 to do without one")
    if http.token is None and not http.allow_anonymous and not is_loopback(http.host):
        raise SettingsError(
            f"http.host is {http.host}, which others can reach, and http.token is not set: set a token, or "
            "http.allow_anonymous = true where everybody in reach may use the bridge, or http.port = 0"
        )


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine and can be reached from it alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost")


def reachable(host: str) -> str:
    """Return the host to name to others: for one that means all interfaces, this machine's address in its network."""
    try:
        everywhere = ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return host
    if not everywhere:
        return host
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses the interface
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
