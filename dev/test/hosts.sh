# shellcheck shell=bash
# hosts.sh: several hosts on one machine, for tests. Each has a host name and a network interface (namespaces of Linux);
# a switch joins them. They share files and processors. mpirun of Open MPI reaches another host by a stand-in for ssh,
# $remote_shell.
#
# A test sources this file before script_fixture.sh, and calls own_world "$@" in between. The script then starts again
# in namespaces of its own, in which it is root. All that it makes there (hosts, links, processes, files in $TMPDIR)
# ends with the script, however that ends, and no other script sees it. Nothing reaches the machine's own network.

no_hosts=                      # why there can be none here
PATH=$PATH:/usr/sbin:/sbin     # where some systems have the tools of networks
remote_shell=/run/remote_shell # `ssh` in this name would be given ssh's options
slow_link=(rate 2mbit burst 2kb limit 8kb) # a packet that comes while 8 kB wait is lost

# own_world ARGUMENT...: see above. Where this machine cannot do it, it returns and says in $no_hosts why.
own_world() {
    local command namespaces=(unshare --net --mount --pid --ipc --fork --kill-child --mount-proc)
    if [ -z "${MARS_OWN_WORLD:-}" ]; then
        for command in ip tc unshare nsenter mpirun; do
            if ! command -v $command >/dev/null; then no_hosts="there is no $command" && return 0; fi
        done
        if [[ $(mpirun --version 2>&1) != *"Open MPI"* ]]; then no_hosts="mpirun is not Open MPI's" && return 0; fi
        if [ "$(id -u)" -ne 0 ]; then namespaces+=(--map-root-user); fi
        if no_hosts=$("${namespaces[@]}" bash "${BASH_SOURCE[0]}" 2>&1); then
            MARS_OWN_WORLD=yes exec "${namespaces[@]}" bash "$0" "$@"
        fi
        no_hosts="this machine allows no such namespaces: ${no_hosts//$'\n'/ }"
        return 0
    fi
    unset MARS_OWN_WORLD
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /dev/shm # where ranks of one host meet
    mkdir /run/tmp                # for Open MPI, whose files have the names of hosts, and for the test
    export TMPDIR=/run/tmp
    touch /run/hosts
    mount --bind /run/hosts /etc/hosts
    ip link add switch type bridge
    ip link set switch up
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
}

# Tries what hosts are made of.
try_hosts() {
    set -e
    mount -t tmpfs tmpfs /run
    ip netns add host1
    touch /run/uts
    unshare --uts=/run/uts hostname host1
    ip link add switch type bridge
    ip link add host1 type veth peer name eth0 netns host1
    tc qdisc add dev host1 root tbf "${slow_link[@]}"
}

# hosts_up COUNT: host1, host2, ..., in the place of those that were there.
hosts_up() {
    local host i
    for host in $(hosts); do
        kill_all_on "$host"
        ip link delete "$host"
        ip netns delete "$host"
        umount "/run/$host.name"
    done
    rm -f /run/cut_*
    echo "127.0.0.1 localhost" >/run/hosts
    for ((i = 1; i <= $1; i++)); do
        host=host$i
        echo "10.77.0.$i $host" >>/run/hosts
        touch "/run/$host.name"
        unshare "--uts=/run/$host.name" hostname "$host"
        ip netns add "$host"
        ip link add "$host" type veth peer name eth0 netns "$host"
        ip link set "$host" master switch up
        ip -n "$host" address add "10.77.0.$i/24" dev eth0
        ip -n "$host" link set eth0 up
        ip -n "$host" link set lo up
    done
    command_file "$remote_shell" <<'END'
# remote_shell HOST COMMAND...: as by ssh, the command gets nothing of this environment and is not this one's child, and
# while a cable is unplugged its end is not heard of. This is one process, as ssh is.
at=(nsenter "--net=/run/netns/$1" "--uts=/run/$1.name")
shift
at+=(env -i PATH="$PATH" HOME="$HOME" TMPDIR="$TMPDIR")
while IFS= read -r line; do echo "$line"; done < <("${at[@]}" sh -c "$*" </dev/null 2>&1 &)
exec {silent}<> <(:)
while compgen -G '/run/cut_*' >/dev/null; do read -rt 0.1 -u $silent || true; done
END
}

hosts() { ip netns list | sed 's/ .*//'; }

# on_host HOST COMMAND...
on_host() { nsenter "--net=/run/netns/$1" "--uts=/run/$1.name" -- "${@:2}"; }

# processes_on HOST [NAME]: those that are alive, or those of this name, in the order in which they were started.
processes_on() {
    local process name state
    for process in $(ip netns pids "$1"); do
        read -r name state < <(sed 's/^[0-9]* (\(.*\)) \(.\).*/\1 \2/' "/proc/$process/stat" 2>/dev/null) || continue
        if [ "$state" != Z ] && [ "$name" = "${2:-$name}" ]; then echo "$process"; fi
    done
}

# Pulls the host's cable out of the switch.
unplug() {
    touch "/run/cut_$1"
    ip link set "$1" down
}

kill_all_on() {
    local processes
    while mapfile -t processes < <(processes_on "$1") && [ ${#processes[@]} -gt 0 ]; do
        kill -KILL "${processes[@]}" 2>/dev/null || true
        sleep 0.01
    done
}

# Nothing says goodbye.
power_off() {
    unplug "$1"
    kill_all_on "$1"
}

# slow_down HOST: what goes to it and what comes from it.
slow_down() {
    tc qdisc add dev "$1" root tbf "${slow_link[@]}"
    ip netns exec "$1" tc qdisc add dev eth0 root tbf "${slow_link[@]}"
}

# packets_lost HOST: by its slow link, both ways.
packets_lost() {
    { tc -s qdisc show dev "$1"; ip netns exec "$1" tc -s qdisc show dev eth0; } |
        sed -n 's/.*dropped \([0-9]*\).*/\1/p' | awk '{ sum += $1 } END { print sum }'
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then try_hosts; fi
