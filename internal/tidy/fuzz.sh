#!/bin/sh
# Runs every fuzz target of the project for the time given (default 30s), one
# after the other, and stops at the first finding.
set -eu
time=${1:-30s}
for file in $(git ls-files '*_test.go'); do
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(f \*testing.F).*/\1/p' "$file"); do
		echo "== $(dirname "$file") $target"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$(dirname "$file")"
	done
done
