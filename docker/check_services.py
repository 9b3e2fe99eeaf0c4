"""Exit 0 when Prefect's background services have reported to Redis within the last minute, else 1.

They have no page that could be asked. What takes their work from Redis says every few seconds that it is there.
"""

from __future__ import annotations

import os
import sys
import time


def newest_heartbeat(url: str) -> float:
    """When the last report came, in seconds since 1970; 0 when there is none."""
    import redis

    with redis.Redis.from_url(url, socket_timeout=5) as client:
        newest = [client.zrange(key, -1, -1, withscores=True) for key in client.scan_iter("*:workers")]
    return max((score for found in newest for _, score in found), default=0.0)


if __name__ == "__main__":
    sys.exit(time.time() - newest_heartbeat(os.environ["PREFECT_SERVER_DOCKET_URL"]) > 60)
