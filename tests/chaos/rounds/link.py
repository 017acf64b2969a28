"""A line between clients and a server that can be slow, silent or cut, or lose what is answered."""

import asyncio
import contextlib
import threading
from typing import Literal, Self

from streams.local.ports import free_port

Mode = Literal["open", "slow", "silent", "cut", "deaf"]
CHUNK_BYTES = 65_536
DELAY_S = 0.15
"""What `slow` adds to each piece, in both directions."""


class Link:
    """Listens on `port` of 127.0.0.1 and passes everything on to ``target_port``.

    `slow` delays each piece, `silent` holds everything back (nothing is lost, as when packets are
    dropped and sent again), `cut` resets every connection and refuses new ones, `deaf` passes
    requests on and cuts the connection instead of passing the reply.
    """

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.mode: Mode = "open"
        self._target_port = target_port
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"link-{self.port}", daemon=True)
        self._listening = threading.Event()

    def change(self, mode: Mode) -> None:
        """Be like that from now on, for connections that are open as well."""
        self.mode = mode
        if mode == "cut":
            self._loop.call_soon_threadsafe(self._abort_all)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", self.port))
        self._listening.set()
        self._loop.run_forever()
        for task in (tasks := asyncio.all_tasks(self._loop)):
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _abort_all(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.mode == "cut":
                raise ConnectionResetError
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, far_writer}
        self._open |= pair
        directions = [
            asyncio.ensure_future(self._pump(reader, far_writer, reply=False)),
            asyncio.ensure_future(self._pump(far_reader, writer, reply=True)),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # at the end of the link; a stream's callback would log it
            pass
        finally:
            for direction in directions:
                direction.cancel()
            self._open -= pair
            for end in pair:
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if reply and self.mode == "deaf":
                    return
                while self.mode == "silent":
                    await asyncio.sleep(0.05)
                if self.mode == "slow":
                    await asyncio.sleep(DELAY_S)
                writer.write(data)
                await writer.drain()
