#!/bin/sh
# Writes docker/.env from docker/.env.example with random secrets, readable by its owner only. $1: the folder of videos.
# An existing file is left alone: its passwords are those of the databases.
set -eu
given=${1:?the folder of videos is missing: sh docker/make_secrets.sh /my/videos}
if [ ! -d "$given" ]; then
    echo "$given is no folder" >&2
    exit 1
fi
videos=$(cd "$given" && pwd)
cd "$(dirname "$0")"
target=${2:-.env}
if [ -e "$target" ]; then
    echo "docker/$target is there already; its passwords are in use, so it stays" >&2
    exit 1
fi
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
umask 077
while IFS= read -r line; do
    case $line in
        PREFECT_AUTH_STRING=) echo "${line}admin:$(random)" ;;
        S3_ACCESS_KEY=) echo "${line}vlmvid" ;;
        *PASSWORD= | *SECRET_KEY=) echo "$line$(random)" ;;
        VIDEOS_DIR=) echo "$line'$videos'" ;;  # a shell that reads the file, and Compose, take the quotes off
        *) printf '%s\n' "$line" ;;
    esac
done <.env.example >"$target"
echo "wrote docker/$target"
