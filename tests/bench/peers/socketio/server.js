// Socket.IO: what agent-7 says reaches phone-7, and back, on whichever server it is.
//
//   REDIS_URL=… node server.js PORT redis|redis-streams|none

import { createServer } from "node:http"
import { createAdapter as overPubSub } from "@socket.io/redis-adapter"
import { createAdapter as overStreams } from "@socket.io/redis-streams-adapter"
import { createClient } from "redis"
import { Server } from "socket.io"

const [port, bus] = process.argv.slice(2)

const connected = async () => {
  const client = createClient({ url: process.env.REDIS_URL })
  client.on("error", console.error)
  await client.connect()
  return client
}

const adapters = {
  redis: async () => overPubSub(await connected(), await connected()),
  "redis-streams": async () => overStreams(await connected()),
  none: async () => undefined, // one server alone
}

const http = createServer()
const io = new Server(http, {
  adapter: await adapters[bus](),
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
})

// As its guide says to do where memory counts: the request of the upgrade is not needed any more.
io.engine.on("connection", (socket) => {
  socket.request = null
})

io.on("connection", (socket) => {
  const me = socket.handshake.auth.me
  const other = me.startsWith("agent") ? me.replace("agent", "phone") : me.replace("phone", "agent")
  socket.join(me)
  socket.on("say", (said) => io.to(other).emit("say", said))
})

http.listen(Number(port), "127.0.0.1")
