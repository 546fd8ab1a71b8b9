#!/bin/sh
# sqlite.sh backs up an SQLite file of Stem, and restores it.
#
#   sqlite.sh backup FILE COPY     while its processes work
#   sqlite.sh restore COPY FILE    while none of them runs
#
# Run it as the user whose the file is. It needs sqlite3, version 3.27 or newer. COPY
# must not be there: name it after the moment. A restore keeps the file that was there,
# under the name FILE.before-MOMENT, with its -wal.
set -eu
umask 077

die() {
	echo "sqlite.sh: $*" >&2
	exit 1
}

# whole FILE: it is one, it is of Stem, and nothing in it is damaged.
whole() {
	[ -s "$1" ] || die "$1: there is no such file, or it is empty"
	said=$(sqlite3 "$1" 'PRAGMA application_id; PRAGMA integrity_check' 2>&1) || die "$1: $said"
	# 1400137069 are the bytes "Stem".
	[ "$said" = "1400137069
ok" ] || die "$1: it is damaged, or not a file of Stem: $said"
}

backup() {
	file=$1 copy=$2
	[ -s "$file" ] || die "$file: there is no such file, or it is empty"
	[ ! -e "$copy" ] || die "$copy: it is there already"
	trap 'rm -f "$copy.part"' EXIT
	rm -f "$copy.part"
	# One transaction reads it all: a moment of the file, whatever is written meanwhile.
	sqlite3 -readonly -cmd '.timeout 30000' "$file" "VACUUM INTO '$(quoted "$copy.part")'"
	whole "$copy.part"
	sync
	mv "$copy.part" "$copy"
}

# quoted TEXT, for between the quotes of SQL.
quoted() { printf %s "$1" | sed "s/'/''/g"; }

restore() {
	copy=$1 file=$2
	whole "$copy"
	if [ -e "$file" ]; then
		# Only who has the file alone may open it like this.
		said=$(sqlite3 "$file" 'PRAGMA locking_mode = exclusive; BEGIN IMMEDIATE; ROLLBACK' 2>&1) || true
		case $said in *locked*) die "$file: a process has it open; stop all that use it" ;; esac
		aside=$file.before-$(date -u +%Y%m%dT%H%M%SZ)
		for end in '' -wal; do
			if [ -e "$file$end" ]; then mv "$file$end" "$aside$end"; fi
		done
		echo "sqlite.sh: what was there is now $aside" >&2
	fi
	# They belong to what was there.
	rm -f "$file-wal" "$file-shm"
	trap 'rm -f "$file.part"' EXIT
	cp "$copy" "$file.part"
	sync
	mv "$file.part" "$file"
}

[ $# = 3 ] || die "usage: sqlite.sh backup FILE COPY | sqlite.sh restore COPY FILE"
case $1 in
backup) backup "$2" "$3" ;;
restore) restore "$2" "$3" ;;
*) die "$1: want backup or restore" ;;
esac
