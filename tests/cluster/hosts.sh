#!/usr/bin/env bash
# Hosts made of namespaces, to launch a real cluster of several machines over SSH on one. Each has a network, processes,
# mounts and a name of its own, a private /tmp, home and /dev/shm, and an sshd: `ray stop` on one leaves all others alone.
#   hosts.sh up N            h1 … hN at 10.77.0.1 … N; KEEP="folder folder": what stays visible where /tmp or home hide it
#   hosts.sh exec h2 CMD…    run over SSH
#   hosts.sh kill h2         power off (for a partition: ip link set vh2 down)
#   hosts.sh down            end and remove them all
# HOSTS_DIR is where keys, homes and logs lie, and not under /tmp. Needs root, iproute2, openssh-server, openssh-client and rsync.
set -euo pipefail
dir=${HOSTS_DIR:?say where: HOSTS_DIR=folder} net=${HOSTS_NET:-10.77.0} bridge=br-efface

make_bridge() {
  ip link show "$bridge" > /dev/null 2>&1 && { echo "bridge $bridge is there already: other pseudo-hosts run" >&2; exit 3; }
  ip link add "$bridge" type bridge
  ip addr add "$net.254/24" dev "$bridge"
  ip link set "$bridge" up
}

make_host() { # NUMBER: its files, its cable, its processes
  local host=h$1 ip=$net.$1 root=$dir/h$1
  mkdir -p "$root"/{tmp,home/.ssh,keep}
  cp "$dir/id.pub" "$root/home/.ssh/authorized_keys"
  chmod 700 "$root/home" "$root/home/.ssh"
  chmod 1777 "$root/tmp"
  printf '127.0.0.1 localhost\n%s %s\n' "$ip" "$host" > "$root/hosts"
  ip netns add "$host"
  ip link add "v$host" type veth peer name eth0 netns "$host"
  ip link set "v$host" master "$bridge" up
  ip -n "$host" addr add "$ip/24" dev eth0
  ip -n "$host" link set eth0 up
  ip -n "$host" link set lo up
  ip -n "$host" route add default via "$net.254"
  # shellcheck disable=SC2086 # KEEP is a list of words
  setsid ip netns exec "$host" unshare -m -u -p -f --mount-proc --propagation private \
    bash -c "$(declare -f boot); boot \"\$@\"" _ "$root" "$host" "$ip" ${KEEP:-} > "$dir/$host.log" 2>&1 < /dev/null &
  echo $! > "$dir/$host.pid"
}

boot() { # inside the namespaces: put the private folders in place, then become sshd
  set -e
  local root=$1 host=$2 ip=$3 number=0 folder
  shift 3
  hostname "$host"
  for folder in "$@"; do
    number=$((number + 1))
    mkdir -p "$root/keep/$number"
    mount --bind "$folder" "$root/keep/$number"
  done
  mount --bind "$root/tmp" /tmp
  mount --bind "$root/home" ~root
  mount -t tmpfs -o size=4g tmpfs /dev/shm
  mount --bind "$root/hosts" /etc/hosts
  number=0
  for folder in "$@"; do
    number=$((number + 1))
    mkdir -p "$folder"
    mount --bind "$root/keep/$number" "$folder"
  done
  exec /usr/sbin/sshd -D -e -h "${root%/*}/hostkey" -o PidFile=none -o UsePAM=no -o StrictModes=no \
    -o MaxStartups=100 -o MaxSessions=100 -o ListenAddress="$ip" -o AuthorizedKeysFile=.ssh/authorized_keys \
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no
}

await_host() { # NUMBER
  local _
  for _ in $(seq 50); do
    (exec 3<> "/dev/tcp/$net.$1/22") 2> /dev/null && return
    sleep 0.1
  done
  echo "h$1 does not answer over SSH:" >&2
  cat "$dir/h$1.log" >&2
  exit 1
}

power_off() { # the first process of a pid namespace takes all others with it
  local child
  for child in $(cat "/proc/$(cat "$dir/$1.pid")/task/"*/children 2> /dev/null); do kill -9 "$child"; done
}

case ${1:-} in
  up)
    mkdir -p "$dir" /run/sshd
    make_bridge
    for key in id hostkey; do [ -f "$dir/$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$dir/$key"; done
    for number in $(seq 1 "$2"); do make_host "$number"; done
    for number in $(seq 1 "$2"); do await_host "$number"; done
    ;;
  exec)
    host=$2
    shift 2
    exec ssh -i "$dir/id" -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR \
      "root@$net.${host#h}" "$@"
    ;;
  kill) power_off "$2" ;;
  down)
    for pid in "$dir"/h*.pid; do
      [ -e "$pid" ] || continue
      host=$(basename "$pid" .pid)
      power_off "$host"
      sleep 0.2
      ip netns del "$host" 2> /dev/null || true
      rm -f "$pid"
    done
    ip link del "$bridge" 2> /dev/null || true
    ;;
  *)
    sed -n 2,9p "$0"
    exit 2
    ;;
esac
