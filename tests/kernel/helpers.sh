# The words tests/kernel.rs speaks inside a guest. A start of the guest costs seconds, an array well under
# one: put many cases into one script. Every function fails with a non-zero status and says why on stderr;
# scripts run under `set -e`.
#
#   create MD ARG...          mdadm --create, then settle
#   assemble MD MEMBER...     mdadm --assemble --run of exactly these, then settle
#   settle MD                 waits until no resync, rebuild or check runs or is due
#   scrub MD                  the kernel reads all and compares; prints "mismatch_cnt N", fails unless N is 0
#   content MD                prints "md5 HEX" of all that MD holds
#   fill MD [MIB]             random bytes into all of MD or its first MIB
#   stop MD...                mdadm --stop
#   examine MEMBER            what mdadm reads from a superblock
#   attach FILE...            loop devices of FILEs (of a writable folder); prints their names on one line
#   detach LOOP...            and away again, everything written

SETTLE_SECONDS=30

create() {
    local md=$1
    shift
    mdadm --create "$md" --run --quiet --homehost=none "$@" && settle "$md"
}

assemble() {
    local md=$1
    shift
    mdadm --assemble "$md" --run --quiet "$@" && settle "$md"
}

settle() {
    local sys=/sys/block/${1##*/}/md quiet=0 deadline=$((SECONDS + SETTLE_SECONDS))
    [[ -e $sys/sync_action ]] || return 0 # raid0 and linear have nothing to settle
    # Twice: between the start of an array and the start of its resync the driver says "idle" too.
    while ((quiet < 2)); do
        if [[ $(<"$sys/sync_action") == idle && $(<"$sys/resync_start") == none ]]; then
            quiet=$((quiet + 1))
        else
            quiet=0
        fi
        if ((SECONDS > deadline)); then
            echo "$1 does not settle: $(<"$sys/sync_action"), resync_start $(<"$sys/resync_start")" >&2
            return 1
        fi
        sleep 0.02
    done
}

scrub() {
    local sys=/sys/block/${1##*/}/md count
    [[ -e $sys/sync_action ]] || { echo "$1 has no redundancy to check" >&2; return 1; }
    settle "$1" && echo check >"$sys/sync_action" && settle "$1" || return 1
    count=$(<"$sys/mismatch_cnt")
    echo "mismatch_cnt $count"
    ((count == 0))
}

content() {
    local sum
    sum=$(md5sum <"$1") && echo "md5 ${sum%% *}"
}

fill() {
    local bytes=$((${2:-0} << 20))
    ((bytes > 0)) || bytes=$(blockdev --getsize64 "$1")
    head -c "$bytes" /dev/urandom | dd of="$1" bs=64K iflag=fullblock conv=fsync,notrunc status=none
}

stop() {
    mdadm --stop --quiet "$@"
}

examine() {
    mdadm --examine "$1"
}

attach() {
    local file loop all=()
    [[ -e /dev/loop-control ]] || modprobe loop || return 1
    for file in "$@"; do
        loop=$(losetup --find --show "$file") || return 1
        all+=("$loop")
    done
    echo "${all[*]}"
}

detach() {
    sync && losetup --detach "$@"
}
