#!/usr/bin/env bash
# Runs every fuzz test of the module, one after the other, for FUZZTIME each.
set -euo pipefail
cd "$(dirname "$0")/.."
go=${GO:-go}
seconds=${FUZZTIME:-30s}

found=0
for package in $("$go" list ./...); do
	names=$("$go" test -list '^Fuzz' "$package" | grep '^Fuzz' || true)
	for name in $names; do
		found=$((found + 1))
		echo "== $package $name for $seconds"
		"$go" test -run '^$' -fuzz "^$name\$" -fuzztime "$seconds" "$package"
	done
done
echo "$found fuzz tests found nothing"
