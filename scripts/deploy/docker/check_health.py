"""Exits with 0 where the service of this container takes requests; the HEALTHCHECK of the Dockerfile."""

from __future__ import annotations

import os
import ssl
import sys
import urllib.request


def is_ready(port: int, with_tls: bool) -> bool:
    """Whether /health/ready of this machine answers 200; the certificate names another host and is not checked."""
    context = ssl._create_unverified_context() if with_tls else None
    address = f"{'https' if with_tls else 'http'}://127.0.0.1:{port}/health/ready"
    try:
        with urllib.request.urlopen(address, timeout=4, context=context) as answer:
            return answer.status == 200
    except OSError:  # urllib's errors are of this class.
        return False


if __name__ == "__main__":
    ready = is_ready(int(os.environ.get("FINETUNE_SERVE_PORT", "8000")), "FINETUNE_SERVE_TLS_CERTIFICATE" in os.environ)
    sys.exit(0 if ready else 1)
