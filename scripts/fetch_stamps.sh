#!/bin/sh
# Unpacks Debian's tuxpaint-stamps-default (captioned pictures, about 160 MB) into $1, without root.
# On other systems: unpack the package or copy the stamps folder anywhere and give STAMPS_DIR=.
set -eu
target=$1
if [ -d "$target" ] && [ -n "$(find "$target" -name '*.png' -print -quit)" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "apt-get or dpkg-deb is missing, so tuxpaint-stamps-default cannot be fetched here." >&2
    echo "Copy its folder usr/share/tuxpaint/stamps from anywhere and run: make demo-real STAMPS_DIR=/that/folder" >&2
    exit 1
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
if ! apt-get download tuxpaint-stamps-default; then
    echo "apt-get could not download tuxpaint-stamps-default; run 'apt-get update' as root once, then again." >&2
    exit 1
fi
dpkg-deb -x tuxpaint-stamps-default_*.deb unpacked
mkdir -p "$(dirname "$target")"
rm -rf "$target"
mv unpacked/usr/share/tuxpaint/stamps "$target"
