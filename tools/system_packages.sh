#!/bin/sh
# System libraries of a napari window and of its tests on a virtual display, and the browser in which the
# page is tested. Installs what is missing where it may (root on Debian or Ubuntu), otherwise says what is missing.
set -eu

command -v dpkg-query >/dev/null 2>&1 || {
    [ "$(uname -s)" != Linux ] || echo "Not Debian: see README.md for the libraries of a napari window." >&2
    exit 0
}

glib=libglib2.0-0
apt-cache show libglib2.0-0t64 >/dev/null 2>&1 && glib=libglib2.0-0t64
wanted="xvfb xauth libegl1 libgl1 $glib libdbus-1-3 libfontconfig1 libxkbcommon-x11-0
    libxcb-cursor0 libxcb-icccm4 libxcb-keysyms1 libxcb-randr0 libxcb-shape0 libxcb-xfixes0
    libx11-xcb1 chromium"
missing=
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
else
    echo "The napari window, and the tests of window and page, need:$missing" >&2
    echo "Install them with: sudo apt-get install$missing" >&2
fi
