"""Create the bucket named by VLMVID_BUCKET on the S3 service that AWS_ENDPOINT_URL names, if it is not there."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Create the bucket; an existing one of this account is left as it is."""
    import boto3

    name = os.environ["VLMVID_BUCKET"]
    client = boto3.client("s3")
    if name not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=name)
        sys.stdout.write(f"created bucket {name}\n")
    client.close()


if __name__ == "__main__":
    main()
