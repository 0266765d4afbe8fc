/** A line to the server that can be cut, closed for a while, and made to lose or repeat single frames. */

import { type AddressInfo, createServer, connect as dial, type Socket } from "node:net"

/** What becomes of a frame on its way to the client. */
export type Fate = "pass" | "lose" | "repeat"

export interface Line {
  readonly origin: string
  /** Judges each text frame from the server. */
  judge: (frame: string) => Fate
  /** While false nobody gets through. */
  up: boolean
  /** While true nothing comes back. */
  stalled: boolean
  /** How many sockets were upgraded. */
  sockets: number
  /** Lose every connection without a word. */
  cut(): void
  close(): Promise<void>
}

export async function openLine(origin: string): Promise<Line> {
  const target = new URL(origin)
  const open = new Set<Socket>()
  const server = createServer((near) => {
    if (!line.up) {
      near.destroy()
      return
    }
    const far = dial(Number(target.port), target.hostname)
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      open.add(one)
      one.on("error", () => {}) // a close follows
      one.on("close", () => {
        open.delete(one)
        other.destroy()
      })
    }
    near.on("data", (chunk) => far.write(chunk))
    const filter = frames((frame) => line.judge(frame))
    far.on("data", (chunk) => {
      const { out, upgraded } = filter(chunk)
      if (upgraded) line.sockets++
      if (out.length > 0 && !line.stalled) near.write(out)
    })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve)
  })
  const cut = () => {
    for (const socket of open) socket.resetAndDestroy()
  }
  const line: Line = {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    judge: () => "pass",
    up: true,
    stalled: false,
    sockets: 0,
    cut,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        cut()
      }),
  }
  return line
}

/** Let HTTP through; after an upgrade cut the stream into frames (RFC 6455 §5.2; the server's are not masked). */
function frames(judge: (frame: string) => Fate): (chunk: Buffer) => { out: Buffer; upgraded: boolean } {
  let waiting: Buffer = Buffer.alloc(0)
  let upgraded = false
  return (chunk) => {
    const out: Buffer[] = []
    const upgrades = !upgraded && chunk.subarray(0, 12).toString() === "HTTP/1.1 101" // it comes as a write of its own
    if (upgrades) {
      const end = chunk.indexOf("\r\n\r\n") + 4
      out.push(chunk.subarray(0, end))
      waiting = chunk.subarray(end)
      upgraded = true
    } else if (upgraded) {
      waiting = Buffer.concat([waiting, chunk])
    } else {
      return { out: chunk, upgraded: false }
    }
    for (let size = frameSize(waiting); size !== null && waiting.length >= size.head + size.body; ) {
      const frame = waiting.subarray(0, size.head + size.body)
      waiting = waiting.subarray(frame.length)
      const isText = frame[0] === 0x81
      const fate = isText ? judge(frame.subarray(size.head).toString()) : "pass"
      if (fate !== "lose") out.push(frame)
      if (fate === "repeat") out.push(frame)
      size = frameSize(waiting)
    }
    return { out: Buffer.concat(out), upgraded: upgrades }
  }
}

function frameSize(octets: Buffer): { head: number; body: number } | null {
  if (octets.length < 2) return null
  const short = (octets[1] ?? 0) & 0x7f
  if (short < 126) return { head: 2, body: short }
  if (short === 126) return octets.length < 4 ? null : { head: 4, body: octets.readUInt16BE(2) }
  return octets.length < 10 ? null : { head: 10, body: Number(octets.readBigUInt64BE(2)) }
}
