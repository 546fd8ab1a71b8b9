#!/bin/sh
# redis.sh backs up a Redis server, and restores it.
#
#   redis.sh backup rdb COPY       a snapshot, from anywhere; COPY will be a file
#   redis.sh backup aof COPY       the append-only files, on the server's host; COPY
#                                  will be a directory
#   redis.sh restore COPY DIR      into the server's directory, while it does not run
#
# Backups are taken while the server works. COPY must not be there: name it after the
# moment. Which server it is say the options in REDIS, such as
# REDIS='-h redis-1 -p 6379', and the password is in REDISCLI_AUTH. A restore is run as the
# user whose the directory is; what was there is kept in DIR/before-MOMENT. After a restore
# of a snapshot DIR has both, a snapshot and append-only files, so that it does not
# matter whether the server's configuration says "appendonly yes".
set -eu
umask 077
PATIENCE=${PATIENCE:-600} # seconds that a snapshot or a rewrite may take

die() {
	echo "redis.sh: $*" >&2
	exit 1
}

# redis COMMAND...: what the server answers. Its errors are errors.
redis() {
	# shellcheck disable=SC2086 # REDIS has options
	said=$(redis-cli ${REDIS:-} "$@" 2>&1) || die "redis-cli $1: $said"
	case $said in [A-Z][A-Z]*" "*) die "redis-cli $1: $said" ;; esac # as in: NOAUTH, and why
	printf '%s\n' "$said"
}

# setting NAME is a value of the server's configuration; none: it has no such name.
setting() {
	answer=$(redis CONFIG GET "$1") || exit
	printf '%s\n' "$answer" | sed -n 2p
}

# info NAME is a field of INFO persistence.
info() {
	answer=$(redis INFO persistence) || exit
	printf '%s\n' "$answer" | tr -d '\r' | sed -n "s/^$1://p"
}

# await NAME VALUE, of INFO persistence.
await() {
	left=$PATIENCE
	while value=$(info "$1") && [ "$value" != "$2" ]; do
		[ "$left" -gt 0 ] || die "$1 is $value after $PATIENCE seconds"
		left=$((left - 1))
		sleep 1
	done
	[ "$value" = "$2" ]
}

backup_rdb() {
	trap 'rm -f "$copy.part"' EXIT
	# The server makes a snapshot of this moment and sends it, as to a replica.
	# shellcheck disable=SC2086
	said=$(redis-cli ${REDIS:-} --rdb "$copy.part" 2>&1) || die "$said"
	redis-check-rdb "$copy.part" >/dev/null || die "the snapshot is damaged"
	sync
	mv "$copy.part" "$copy"
}

backup_aof() {
	appends=$(setting appendonly)
	[ "$appends" = yes ] || die "the server has no append-only files: back up rdb"
	# Nothing but a rewrite replaces the files, and nothing but this starts one.
	percentage=$(setting auto-aof-rewrite-percentage)
	trap 'rm -rf "$copy.part"; redis CONFIG SET auto-aof-rewrite-percentage "$percentage" >/dev/null' EXIT
	redis CONFIG SET auto-aof-rewrite-percentage 0 >/dev/null
	await aof_rewrite_in_progress 0
	await aof_rewrite_scheduled 0
	mkdir "$copy.part"
	from=$(setting dir)
	name=$(setting appenddirname) # since Redis 7; before, there was one file
	[ -n "$name" ] || name=$(setting appendfilename)
	cp -R "$from/$name" "$copy.part/"
	sync
	mv "$copy.part" "$copy"
}

restore() {
	copy=$1 dir=$2
	[ -d "$dir" ] || die "$dir: there is no such directory"
	[ -e "$copy" ] || die "$copy: there is no such backup"
	dir=$(cd "$dir" && pwd)
	# shellcheck disable=SC2086
	used=$(redis-cli ${REDIS:-} CONFIG GET dir 2>/dev/null | sed -n 2p) || true
	[ "$used" != "$dir" ] || die "$dir: a server works on it; stop it"
	if [ -e "$dir/dump.rdb" ] || [ -e "$dir/appendonlydir" ] || [ -e "$dir/appendonly.aof" ]; then
		aside=$dir/before-$(date -u +%Y%m%dT%H%M%SZ)
		mkdir "$aside"
		for name in dump.rdb appendonlydir appendonly.aof; do
			if [ -e "$dir/$name" ]; then mv "$dir/$name" "$aside/"; fi
		done
		echo "redis.sh: what was there is now in $aside" >&2
	fi
	if [ -d "$copy" ]; then
		cp -R "$copy/." "$dir/"
		return
	fi
	redis-check-rdb "$copy" >/dev/null || die "$copy: the snapshot is damaged"
	cp "$copy" "$dir/dump.rdb"
	# A server that appends does not look at a snapshot, so one that does not appends
	# all of it.
	REDIS="-s $dir/restore.sock"
	unset REDISCLI_AUTH
	redis-server --port 0 --unixsocket "$dir/restore.sock" --dir "$dir" --save '' --appendonly no \
		--logfile "$dir/restore.log" &
	server=$!
	trap 'kill "$server" 2>/dev/null || true' EXIT
	left=$PATIENCE
	until redis-cli $REDIS PING 2>/dev/null | grep -q PONG && [ "$(info loading)" = 0 ]; do
		kill -0 "$server" 2>/dev/null && [ "$left" -gt 0 ] || die "the snapshot is not loaded: see $dir/restore.log"
		left=$((left - 1))
		sleep 1
	done
	redis CONFIG SET appendonly yes >/dev/null
	await aof_rewrite_scheduled 0
	await aof_rewrite_in_progress 0
	[ "$(info aof_last_bgrewrite_status)" = ok ] || die "the append-only files are not written: see $dir/restore.log"
	kill "$server"
	wait "$server" || die "the server that wrote the append-only files did not end well: see $dir/restore.log"
	trap - EXIT
	rm -f "$dir/restore.log" "$dir/restore.sock"
}

usage="usage: redis.sh backup rdb|aof COPY | redis.sh restore COPY DIR"
[ $# = 3 ] || die "$usage"
case "$1 $2" in
"backup rdb" | "backup aof")
	copy=$3
	[ ! -e "$copy" ] || die "$copy: it is there already"
	"backup_$2"
	;;
"restore "*) restore "$2" "$3" ;;
*) die "$usage" ;;
esac
