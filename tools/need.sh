#!/usr/bin/env bash
# need.sh PROGRAM PACKAGE…: installs the Debian packages when the program is
# not there, and says how where it cannot.
set -euo pipefail
program=$1
shift
if command -v "$program" >/dev/null; then
	exit 0
fi
echo "$program is missing, installing $*" >&2
root=()
if [ "$(id -u)" != 0 ]; then root=(sudo); fi
install=("${root[@]}" apt-get install -y -qq --no-install-recommends "$@")
if ! command -v apt-get >/dev/null; then
	echo "no apt-get here: install what brings $program by hand (on Debian: ${install[*]})" >&2
	exit 1
fi
"${root[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${install[@]}"
