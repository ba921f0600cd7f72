#!/usr/bin/env bash
# A SLURM cluster of one node on loopback, without systemd, for tests.
#   slurm.sh install    Debian's packages, where they are missing and root may install them
#   slurm.sh up DIR     start it; everything lies in DIR. Then: export SLURM_CONF=DIR/slurm.conf
#   slurm.sh down DIR   end it, and its jobs
set -euo pipefail

install() {
  if command -v slurmctld slurmd sbatch munged >/dev/null; then return; fi
  if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "SLURM is missing, and only root on Debian or Ubuntu can install it here: its test will be skipped"
    return
  fi
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 install --no-install-recommends \
    slurmctld slurmd slurm-client munge >/dev/null
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

up() {
  local dir host
  mkdir -p "$1"/{state,spool,log,munge,run}
  dir=$(readlink -f "$1")
  host=$(hostname -s)
  # munge and SLURM refuse folders that others may write to.
  chmod 755 "$dir" "$dir/run"
  chmod 700 "$dir/munge"
  (umask 077; head -c 128 /dev/urandom > "$dir/munge/key")
  # --force: the folder may lie in one that is closed to others.
  munged --force --key-file="$dir/munge/key" --socket="$dir/run/munge.socket" --pid-file="$dir/run/munged.pid" \
    --log-file="$dir/munge/munged.log" --seed-file="$dir/munge/seed" --num-threads=2
  # A job that is requeued waits for cred_expire, two minutes by default; KillWait is from SIGTERM to SIGKILL.
  cat > "$dir/slurm.conf" <<CONF
ClusterName=loop
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/run/munge.socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=$(nproc) State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  export SLURM_CONF="$dir/slurm.conf"
  slurmctld
  slurmd
  for _ in $(seq 100); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -q '^idle'; then return; fi
    sleep 0.1
  done
  tail -n 5 "$dir"/log/*.log >&2
  return 1
}

down() {
  local dir
  dir=$(readlink -f "$1")
  export SLURM_CONF="$dir/slurm.conf"
  [ -e "$SLURM_CONF" ] || return 0
  scancel --user="$(id -un)" || true
  for _ in $(seq 50); do
    if [ -z "$(squeue --noheader)" ]; then break; fi
    sleep 0.2
  done
  for name in slurmd slurmctld munged; do
    if [ -s "$dir/run/$name.pid" ]; then kill "$(cat "$dir/run/$name.pid")" || true; fi
  done
}

case "${1-} $#" in
  "install 1") install ;;
  "up 2" | "down 2") "$1" "$2" ;;
  *) sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
esac
