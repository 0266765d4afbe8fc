// ws, as bare as Node gets: who is here is answered when it says that it lives.
//
//   node server.js PORT

import { WebSocketServer } from "ws"

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false })

server.on("connection", (socket) => {
  socket.on("message", () => socket.send('{"type":"HEARTBEAT_ACK"}'))
})
