"""What the pictures show: backends that take some time to answer, and a steady load on a proxy.

    scene.py backend ADDRESS:PORT...
    scene.py load ADDRESS:PORT PATH RATE CONNECTIONS
"""

import asyncio
import random
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n%s\r\nok\n"


async def serve(reader, writer):
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            # Most answers are quick, some are not.
            await asyncio.sleep(random.lognormvariate(-4.2, 0.8))
            closes = b"connection: close" in head.lower()
            writer.write(ANSWER % (b"Connection: close\r\n" if closes else b""))
            await writer.drain()
            if closes:
                break
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def client(address, path, queue):
    host, port = address.rsplit(":", 1)
    request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    writer = None
    while True:
        await queue.get()
        try:
            if writer is None or writer.is_closing():
                reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if b"connection: close" in head.lower():
                writer.close()
        except (OSError, asyncio.IncompleteReadError, IndexError):
            if writer is not None:
                writer.close()
            writer = None


async def load(address, path, rate, connections):
    queue = asyncio.Queue()
    clients = [asyncio.create_task(client(address, path, queue)) for _ in range(connections)]
    while clients:
        # Not like a clock: requests come in small crowds.
        await asyncio.sleep(random.expovariate(rate / 2))
        for _ in range(random.randint(1, 3)):
            queue.put_nowait(None)


async def backends(addresses):
    servers = [await asyncio.start_server(serve, *address.rsplit(":", 1)) for address in addresses]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    what, *rest = sys.argv[1:]
    if what == "backend":
        asyncio.run(backends(rest))
    else:
        asyncio.run(load(rest[0], rest[1], float(rest[2]), int(rest[3])))
