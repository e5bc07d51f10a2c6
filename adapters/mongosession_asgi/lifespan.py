"""The lifespan protocol: the engine is set up before the application starts, and drained after it has stopped."""

from mongosession import SessionEngine
from mongosession_asgi.types import Message, Receive, Send


class Lifespan:
    """Passes lifespan messages on, with the engine's set-up and close in their places. A set-up that fails is raised
    into the application's own start-up, whose server reports it.

    Args:
        engine: to be set up and closed.
        receive: the server's.
        send: the server's.
    """

    def __init__(self, engine: SessionEngine, receive: Receive, send: Send) -> None:
        self._engine = engine
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """The server's next message; at start-up once the engine is set up."""
        message = await self._receive()
        if message["type"] == "lifespan.startup":
            await self._engine.setup()
        return message

    async def send(self, message: Message) -> None:
        """Pass a message on; the end once no write is under way any more."""
        if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
            await self._engine.close()
        await self._send(message)
