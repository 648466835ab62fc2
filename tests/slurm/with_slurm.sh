#!/bin/bash
# Run a command on a machine that is a Slurm cluster meanwhile: accounting, two partitions, one node
# with two GPUs that are counted but not there. For Debian and Ubuntu, as root.
#
# Two further nodes like it, far1 and far2 in the partition `far`, are this machine in namespaces of their
# own: network (a bridge between them), processes, host name, shared memory. Where the kernel does not
# allow that they are missing, and CRITICFLOW_TEST_FAR is not set.
#
#   tests/slurm/with_slurm.sh COMMAND [ARGUMENT...]
#
# Whatever ends the command, Ctrl-C and `kill` included, the daemons are stopped and the configuration
# is removed; the packages stay. Exits with the command's code, and with 0 where there can be no Slurm.
set -euo pipefail
exec 3>&2  # errors show, also while the output goes to a log

MARK="# tests/slurm/with_slurm.sh in "
ETC=/etc/slurm
HOST=$(hostname -s)
BRIDGE=cfslurm0
NET=10.231.7

skip() {
    echo "test-slurm skipped: $*"
    exit 0
}

# Stop all that a cluster in folder $1 consists of, newest first.
down() {
    local name pid
    scancel --user root --full --quiet 2>/dev/null && sleep 1 || true
    # What the command started, wherever it went.
    for pid in /proc/[0-9]*; do
        if grep -qsz "^CRITICFLOW_TEST_SLURM=$1\$" "$pid/environ"; then
            kill -9 "${pid#/proc/}" 2>/dev/null || true
        fi
    done
    for name in slurmd slurmctld slurmdbd mariadbd munged; do
        pid=$(cat "$1/$name.pid" "$1/$name.$HOST.pid" 2>/dev/null) || [ -n "$pid" ] || continue
        # A number may have been given to another process since.
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ] || continue
        kill "$pid" 2>/dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
        kill -9 "$pid" 2>/dev/null || true
    done
    for name in far1 far2; do
        pid=$(cat "$1/$name.pid" 2>/dev/null) && kill -9 "$pid" 2>/dev/null || true
        # The kernel keeps a network while a connection in it waits for an answer, for minutes where
        # the other end is lost, and with it this end of its cable.
        ip link delete "cf$name" 2>/dev/null || true
        ip netns delete "$BRIDGE-$name" 2>/dev/null || true
    done
    ip link delete "$BRIDGE" 2>/dev/null || true
    rm -f "$ETC/slurm.conf" "$ETC/gres.conf" "$ETC/slurmdbd.conf"
    rm -rf "$1"
}

# A bridge, and for each far node a network namespace with one end of a cable to it.
connect_far_nodes() {
    local number
    ip link add "$BRIDGE" type bridge && ip address add "$NET.1/24" dev "$BRIDGE" &&
        ip link set "$BRIDGE" up || return
    for number in 1 2; do
        ip netns add "$BRIDGE-far$number" &&
            ip link add "cffar$number" type veth peer name eth0 netns "$BRIDGE-far$number" &&
            ip link set "cffar$number" master "$BRIDGE" up &&
            ip -n "$BRIDGE-far$number" address add "$NET.1$number/24" dev eth0 &&
            ip -n "$BRIDGE-far$number" link set eth0 up &&
            ip -n "$BRIDGE-far$number" link set lo up || return
    done
}

# A far node's slurmd, which ends with the process whose number is in NODE.pid, and all else there. Also
# a command, $SCRATCH/start_far_node, for tests that end one.
start_far_node() {
    nsenter --net="/run/netns/$BRIDGE-$1" unshare --pid --fork --kill-child --mount --uts sh -c "
        mount -t proc proc /proc && mount -t tmpfs tmpfs /dev/shm && hostname $1 &&
            { slurmd -D -N $1 & wait; }" >"$SCRATCH/$1.out" 2>&1 3>&- &
    echo $! >"$SCRATCH/$1.pid"
    disown  # its end is no news
}

# Wait until a command succeeds.
await() {
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    echo "error: waited in vain for: $*" >&3
    tail -n 20 "$SCRATCH"/*.log >&3
    exit 1
}

[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT...]" >&2; exit 2; }
[ "$(id -u)" = 0 ] || skip "Slurm's daemons need root"
# With mounts of its own: names of nodes are only known here.
if [ -z "${CRITICFLOW_TEST_MOUNTS:-}" ] && unshare --mount true 2>/dev/null; then
    CRITICFLOW_TEST_MOUNTS=1 exec unshare --mount "$0" "$@"
fi
PACKAGES="slurm-wlm slurmdbd mariadb-server munge"
if ! dpkg-query --show $PACKAGES >/dev/null 2>&1; then
    command -v apt-get >/dev/null || skip "no apt-get to install $PACKAGES"
    echo "test-slurm: installing $PACKAGES"
    # No daemon of the packages starts by itself.
    [ -e /usr/sbin/policy-rc.d ] || { OURS=1; printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d; }
    installed=0
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends $PACKAGES; } >/tmp/test-slurm-apt.log 2>&1 || installed=$?
    [ -z "${OURS:-}" ] || rm -f /usr/sbin/policy-rc.d
    [ "$installed" = 0 ] || skip "apt-get could not install $PACKAGES: see /tmp/test-slurm-apt.log"
fi
if [ -e "$ETC/slurm.conf" ]; then
    # Left by a run that was killed, or a cluster of somebody's.
    before=$(sed -n "s|^$MARK||p" "$ETC/slurm.conf")
    [ -n "$before" ] || skip "this machine has a Slurm of its own ($ETC/slurm.conf)"
    down "$before"
fi

SCRATCH=$(mktemp -d /tmp/criticflow-slurm.XXXXXX)
chmod 755 "$SCRATCH"
CHILD=
finish() {
    local code=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$CHILD" ] && kill -TERM -- "-$CHILD" 2>/dev/null; then sleep 2; fi
    down "$SCRATCH"
    exit "$code"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Controller and node listen on loopback, or on the bridge to the far nodes, which nobody else
# reaches. The plugin clears SLURM_CONF, so it has to be in /etc.
ADDRESS=127.0.0.1
FAR=
if [ -n "${CRITICFLOW_TEST_MOUNTS:-}" ] && connect_far_nodes >"$SCRATCH/network.log" 2>&1; then
    ADDRESS=$NET.1
    { echo "127.0.0.1 localhost"; echo "$NET.1 $HOST"; echo "$NET.11 far1"; echo "$NET.12 far2"; } \
        >"$SCRATCH/hosts"
    mount --bind "$SCRATCH/hosts" /etc/hosts
    FAR=$(for number in 1 2; do
        echo "NodeName=far$number NodeAddr=$NET.1$number CPUs=32 RealMemory=256000 Gres=gpu:2" \
            "State=UNKNOWN"
    done; echo "PartitionName=far Nodes=far[1-2] MaxTime=2-0 State=UP")
    export CRITICFLOW_TEST_FAR=1
else
    echo "test-slurm: no namespaces for further nodes: $(tail -n 1 "$SCRATCH/network.log" 2>&1)"
fi
cat >"$ETC/slurm.conf" <<CONF
$MARK$SCRATCH
ClusterName=criticflow
SlurmctldHost=$HOST($ADDRESS)
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$SCRATCH/munge.socket
CredType=cred/munge
StateSaveLocation=$SCRATCH/state
SlurmdSpoolDir=$SCRATCH/spool/%n
SlurmctldPidFile=$SCRATCH/slurmctld.pid
SlurmdPidFile=$SCRATCH/slurmd.%n.pid
SlurmctldLogFile=$SCRATCH/slurmctld.log
SlurmdLogFile=$SCRATCH/slurmd.%n.log
MpiDefault=none
# No systemd, no control groups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=5
EnforcePartLimits=ALL
ReturnToService=2
KillWait=5
MinJobAge=600
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$HOST
AccountingStoragePass=$SCRATCH/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
AccountingStorageEnforce=associations
# More than a small machine has: what is tested is what jobs ask for.
SlurmdParameters=config_overrides
NodeName=$HOST NodeAddr=$ADDRESS CPUs=32 RealMemory=256000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=2-0 State=UP
PartitionName=gpus Nodes=$HOST MaxTime=2-0 State=UP
$FAR
CONF
# Slurm wants device files, and hands out their numbers.
for node in "$HOST" ${FAR:+far1 far2}; do
    printf 'NodeName=%s Name=gpu File=%s\n' "$node" /dev/null "$node" /dev/zero
done >"$ETC/gres.conf"
cat >"$ETC/slurmdbd.conf" <<CONF
$MARK$SCRATCH
DbdHost=$HOST
DbdAddr=127.0.0.1
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$SCRATCH/munge.socket
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=$SCRATCH/slurmdbd.pid
LogFile=$SCRATCH/slurmdbd.log
CONF
chmod 600 "$ETC/slurmdbd.conf"

cd /
mkdir -p "$SCRATCH/state" "$SCRATCH/spool/$HOST" "$SCRATCH/spool/far1" "$SCRATCH/spool/far2" \
    "$SCRATCH/munge"
export MYSQL_UNIX_PORT=$SCRATCH/mariadb.socket
{
    # munged refuses a key or folders that others could change.
    head -c 1024 /dev/urandom >"$SCRATCH/munge/key"
    chmod 600 "$SCRATCH/munge/key"
    munged --force --key-file="$SCRATCH/munge/key" --socket="$SCRATCH/munge.socket" \
        --pid-file="$SCRATCH/munged.pid" --seed-file="$SCRATCH/munge/seed" \
        --log-file="$SCRATCH/munge/log" 3>&-
    mariadb-install-db --no-defaults --user=root --datadir="$SCRATCH/mariadb" \
        --skip-test-db --auth-root-authentication-method=normal
    mariadbd --no-defaults --user=root --datadir="$SCRATCH/mariadb" --skip-networking \
        --socket="$MYSQL_UNIX_PORT" --pid-file="$SCRATCH/mariadbd.pid" \
        --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 3>&- &
    await mariadb-admin --no-defaults --user=root --socket="$MYSQL_UNIX_PORT" ping
    slurmdbd 3>&-
    await sacctmgr --immediate --quiet list cluster
    sacctmgr --immediate --quiet add cluster criticflow
    sacctmgr --immediate --quiet add account study Cluster=criticflow
    sacctmgr --immediate --quiet add user root Account=study
    slurmctld -i 3>&-
    slurmd 3>&-
    if [ -n "$FAR" ]; then
        { echo "#!/bin/bash"; declare -p SCRATCH BRIDGE; declare -f start_far_node
            echo 'start_far_node "$1"'; } >"$SCRATCH/start_far_node"
        chmod +x "$SCRATCH/start_far_node"
        start_far_node far1
        start_far_node far2
    fi
} >"$SCRATCH/start.log" 2>&1 </dev/null
NODES=$([ -n "$FAR" ] && echo 3 || echo 1)
await sh -c "[ \$(sinfo --noheader --Node --format='%N %T' | grep -w idle | sort -u | wc -l) = $NODES ]"
cd - >/dev/null

# In a group of its own, so that all of it can be ended.
export CRITICFLOW_TEST_SLURM=$SCRATCH  # what tests ask for
setsid "$@" &
CHILD=$!
wait "$CHILD" || exit $?
