"""The firewall table that ships lets through whom it lists and the machine itself, and bars no other port."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = Path(__file__).parent.parent / "configs" / "trabecula.nft"
NFT = shutil.which("nft", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

NETWORKS = """
set -e
ip link set lo up
for at in 10.1.2 10.9.9; do
    unshare -n sleep 60 & child=$!
    sleep 0.3
    ip link add "in$child" type veth peer name "out$child"
    ip link set "out$child" netns $child
    ip addr add $at.1/24 dev "in$child"; ip link set "in$child" up
    nsenter -n -t $child sh -c "ip addr add $at.5/24 dev out$child; ip link set out$child up"
    children="$children $child"
done
set -- $children
"$NFT" -f "$TABLE"
"$NFT" -f "$TABLE"
"$PYTHON" -c "$SERVE" & server=$!
sleep 0.5
nsenter -n -t $1 "$PYTHON" -c "$CALL" 10.1.2.1 11112 70
nsenter -n -t $1 "$PYTHON" -c "$CALL" 10.1.2.1 11112 3
nsenter -n -t $2 "$PYTHON" -c "$CALL" 10.9.9.1 11112 1
nsenter -n -t $2 "$PYTHON" -c "$CALL" 10.9.9.1 11113 1
"$PYTHON" -c "$CALL" 127.0.0.1 11112 1
kill $server $children
"""

SERVE = """
import selectors, socket
waiting = selectors.DefaultSelector()
for port in (11112, 11113):
    waiting.register(socket.create_server(("0.0.0.0", port), backlog=100), selectors.EVENT_READ, True)
while True:
    for key, _ in waiting.select(60):
        if key.data:
            waiting.register(key.fileobj.accept()[0], selectors.EVENT_READ, False)
        else:
            waiting.unregister(key.fileobj)
            key.fileobj.close()
"""

CALL = """
import collections, json, socket, sys
found, held = collections.Counter(), []
for _ in range(int(sys.argv[3])):
    try:
        held.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), 1.5))
        found["open"] += 1
    except OSError as bad:
        found[type(bad).__name__] += 1
print(json.dumps(found))
"""


def test_it_lets_through_whom_it_lists():
    if NFT is None or os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nsenter", "unshare"))):
        pytest.skip("needs root, nft, ip, nsenter and unshare")
    env = os.environ | {"NFT": NFT, "TABLE": str(TABLE), "PYTHON": sys.executable, "SERVE": SERVE, "CALL": CALL}
    script = ["unshare", "-n", "bash", "-c", NETWORKS]
    if subprocess.run(
        ["unshare", "-n", "bash", "-c", "ip link set lo up && ip link add va type veth peer name vb"], check=False
    ).returncode:
        pytest.skip("no networks can be made here")
    ran = subprocess.run(script, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        {"open": 64, "ConnectionRefusedError": 6},  # of the listed network
        {"open": 3},  # they count no more once they have ended
        {"TimeoutError": 1},  # of another
        {"open": 1},  # to another port, which is none of its business
        {"open": 1},  # of the machine itself
    ]
