"""Two stacks that start at the same moment never get the same port."""

import subprocess
import sys

from streams.local.ports import free_port


def test_a_port_is_given_to_one_process_only() -> None:
    """Nobody listens yet; still the second one that asks gets another. When we end, it is free."""
    code = "from streams.local.ports import free_port; print(free_port({port}))"

    def ask(port: int) -> int:
        answer = subprocess.run(
            [sys.executable, "-P", "-c", code.format(port=port)],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(answer.stdout)

    ours = free_port()
    assert ask(ours) != ours
    other = ask(0)
    assert ask(other) == other


def test_random_ports_are_given_once() -> None:
    """Also within one process; asked for by number, our own port is ours."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert free_port(ports[0]) == ports[0]
