"""Exit 0 when Prefect's background services have reported to Redis within the last 20 s, else 1.

They have no page that could be asked. What takes their work from Redis says every 2 s that it is there.
"""

from __future__ import annotations

import os
import sys
import time

WORKERS = "prefect:workers"  # those of the background services; the API's own are prefect-server:workers
MAX_AGE_SECONDS = 20.0


def newest_heartbeat(url: str) -> float:
    """When the last report came, in seconds since 1970; 0 when there is none."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=5) as client:
        newest = client.zrange(WORKERS, -1, -1, withscores=True)
    return newest[0][1] if newest else 0.0


if __name__ == "__main__":
    sys.exit(time.time() - newest_heartbeat(os.environ["PREFECT_SERVER_DOCKET_URL"]) > MAX_AGE_SECONDS)
