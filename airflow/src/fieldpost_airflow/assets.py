"""Assets ``fieldpost://<hub>/<job>``: what a job collects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from fieldpost_airflow.protocol import NAME

if TYPE_CHECKING:
    from airflow.sdk import Asset


def create_asset(*, hub: str, job: str, extra: dict[str, Any] | None = None) -> Asset:
    """The asset of a job.

    :param hub: what the hub is called in asset URIs: a name of yours, or its host
    """
    from airflow.sdk import Asset

    return Asset(uri=f"fieldpost://{hub}/{job}", extra=extra)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """``fieldpost://<hub>/<job>`` and nothing else."""
    job = uri.path.strip("/")
    if not uri.netloc or not NAME.fullmatch(job):
        raise ValueError(
            f"the asset URI {uri.geturl()!r}: fieldpost://<hub>/<job> is expected, "
            "with a job of a-z, 0-9, '.', '_' and '-'"
        )
    if uri.query or uri.fragment:
        raise ValueError(f"the asset URI {uri.geturl()!r}: a query or fragment has no meaning here")
    return uri._replace(path=f"/{job}")
