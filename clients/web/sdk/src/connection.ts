/**
 * One WebSocket that comes back: when it is opened again, and when it must not be (docs/protocol.md, "Close codes").
 *
 * A Link is one socket. Before a message reaches the conversation the Link does its own share: it answers the server's
 * HEARTBEAT, begins its heartbeats at WELCOME, and after RECONNECT leaves. There is one Link at a time.
 */

import { Refused, Stopped } from "./failures.js"
import { newId } from "./ids.js"
import { fullJitter, type Timing } from "./timing.js"
import { type Listener, Topic } from "./topic.js"

export type State =
  | { readonly is: "closed" }
  | { readonly is: "connecting"; readonly attempt: number }
  | { readonly is: "online"; readonly sessionId: string; readonly node: string }
  | { readonly is: "waiting"; readonly attempt: number; readonly retryAt: number; readonly why: string }
  | { readonly is: "reconnecting"; readonly attempt: number }
  | { readonly is: "stopped"; readonly code: number; readonly reason: string }

/** A frame, its `data` typed by its `type`. */
export type Message<Speech> = {
  [Type in keyof Speech & string]: {
    readonly type: Type
    readonly data: Speech[Type]
    readonly messageId: string
    readonly timestamp: number
    readonly seq?: number
  }
}[keyof Speech & string]

/** What is said over a socket; `Says` and `Hears` are the messages by type. */
export interface Conversation<Says, Hears> {
  /** A socket is open: say the first message. */
  begin(link: Link<Says>): void
  hear(message: Message<Hears>, link: Link<Says>): void
  /** The socket is gone. */
  end(): void
}

export interface Link<Says> {
  /** Send a message; pass the id and time of its first sending when it is sent again. */
  send<Type extends keyof Says & string>(type: Type, data: Says[Type], messageId?: string, timestamp?: number): void
  /** Give this socket up without a word. */
  drop(why: string): void
}

interface Ending {
  code: number
  reason: string
  /** Milliseconds for which RECONNECT asked this client to stay away. */
  leaveFor: number | null
  steady: boolean
}

interface Welcome {
  sessionId: string
  heartbeatInterval: number
  node: string
}

interface AnyMessage {
  type: string
  data: Record<string, unknown>
}

const CLOSED: State = { is: "closed" }

export class Connection<Says, Hears> {
  readonly #url: (stale: boolean) => Promise<string>
  readonly #conversation: Conversation<Says, Hears>
  readonly #timing: Timing
  readonly #told = new Topic<[State]>()
  #state: State = CLOSED
  /** What runs since it was opened last; whatever else still waits for something is over. */
  #running: symbol | null = null
  #drop: ((why: string) => void) | null = null
  #wake: (() => void) | null = null

  /**
   * `url` is awaited before each attempt, and brings a fresh ticket; it is told whether the server said by 4401 that
   * the credential must be renewed first. What it throws counts as a failed attempt, but for Stopped and for a Refused
   * without `retry`, after which there is no coming back.
   */
  constructor(url: (stale: boolean) => Promise<string>, conversation: Conversation<Says, Hears>, timing: Timing) {
    this.#url = url
    this.#conversation = conversation
    this.#timing = timing
  }

  get state(): State {
    return this.#state
  }

  /** Tell a listener the state, at once and whenever it changes. */
  onState(listener: Listener<[State]>): () => void {
    const off = this.#told.add(listener)
    listener(this.#state)
    return off
  }

  /** Open a socket, and others after it, until `close`. */
  open(): void {
    if (this.#running !== null) return
    if (typeof WebSocket === "undefined")
      throw new Error("no WebSocket here: Node 20 has it by --experimental-websocket")
    const self = Symbol()
    this.#running = self
    globalThis.addEventListener?.("online", this.#networkIsBack)
    void this.#run(self).finally(() => {
      if (this.#running === null) globalThis.removeEventListener?.("online", this.#networkIsBack)
    })
  }

  /** Close the socket and open no other. */
  close(): void {
    this.#running = null
    this.#drop?.("closed here")
    this.#wake?.()
    if (this.#state.is !== "stopped") this.#become(CLOSED)
  }

  /** Try at once, where the next attempt is being waited for. */
  reconnect(): void {
    this.#wake?.()
  }

  /** A network that came back brought many clients back: not all of them in the same moment. */
  readonly #networkIsBack = () => {
    setTimeout(() => this.reconnect(), fullJitter(1, this.#timing))
  }

  #become(state: State): void {
    this.#state = state
    this.#told.tell(state)
  }

  async #run(self: symbol): Promise<void> {
    let failures = 0
    let stale = false
    for (let attempt = 1; this.#running === self; attempt++) {
      this.#become({ is: attempt === 1 ? "connecting" : "reconnecting", attempt })
      let pause: number | null = null
      let why: string
      try {
        const url = await inTime(this.#url(stale), 2 * this.#timing.timeout) // asked for, and perhaps once more renewed
        stale = false
        if (this.#running !== self) return
        const ending = await this.#converse(url)
        if (ending.code >= 4500 && ending.code <= 4999) throw new Stopped(ending.code, ending.reason)
        stale = ending.code === 4401
        pause = ending.leaveFor
        why = `${ending.code} ${ending.reason}`.trim()
        if (ending.steady) failures = 0
      } catch (error) {
        const end = endOf(error)
        if (end !== null) {
          if (this.#running !== self) return
          this.#running = null
          this.#become({ is: "stopped", code: end.code, reason: end.reason })
          return
        }
        why = error instanceof Error ? error.message : String(error)
        if (error instanceof Refused) pause = error.retryAfter + fullJitter(failures, this.#timing)
      }
      if (this.#running !== self) return
      pause ??= fullJitter(failures, this.#timing)
      failures++
      this.#become({ is: "waiting", attempt, retryAt: Date.now() + pause, why })
      await this.#sleep(pause)
    }
  }

  #sleep(pause: number): Promise<void> {
    return new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, pause)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    }).then(() => {
      this.#wake = null
    })
  }

  /** Hold one conversation to its end. Nothing of the socket is heard after it. */
  #converse(url: string): Promise<Ending> {
    const { promise, resolve } = later<Ending>()
    const openedAt = elapsed()
    const timing = this.#timing
    const socket = new WebSocket(url)
    let heardAt = openedAt
    let welcomed = false
    let leaveFor: number | null = null
    let beat: ReturnType<typeof setTimeout> | undefined

    const finish = (code: number, reason: string) => {
      if (this.#drop !== drop) return
      this.#drop = null
      clearTimeout(beat)
      clearInterval(watch)
      socket.onopen = socket.onmessage = socket.onclose = socket.onerror = null
      if (socket.readyState <= WebSocket.OPEN) socket.close()
      this.#conversation.end()
      resolve({ code, reason, leaveFor, steady: welcomed && elapsed() - openedAt >= timing.steadyAfter })
    }
    const drop = (why: string) => finish(1006, why)
    const send = (type: string, data: unknown, messageId = newId(), timestamp = Date.now()) => {
      if (socket.readyState !== WebSocket.OPEN) return // what must arrive is sent again by those who keep it
      if (socket.bufferedAmount > timing.outgoing) return drop("the server does not read")
      socket.send(JSON.stringify({ type, messageId, timestamp, data }))
    }
    const link = { send, drop } as Link<Says>
    const beatEvery = (interval: number, share: number) => {
      beat = setTimeout(() => {
        send("HEARTBEAT", {})
        beatEvery(interval, 0.8 + 0.4 * Math.random())
      }, interval * share)
    }
    const watch = setInterval(
      () => {
        const silent = elapsed() - heardAt
        if (silent >= timing.silence) drop("nothing was heard for too long")
        else if (!welcomed && silent >= timing.timeout) drop("no answer in time")
      },
      Math.min(1000, timing.silence / 4),
    )

    this.#drop = drop
    socket.onopen = () => {
      heardAt = elapsed()
      this.#conversation.begin(link)
    }
    socket.onclose = ({ code, reason }) => finish(code, reason)
    socket.onerror = () => {} // a close follows
    socket.onmessage = ({ data: frame }) => {
      heardAt = elapsed()
      const message = read(frame)
      if (message === null) return // a newer server may say more than this client knows
      if (message.type === "HEARTBEAT") send("HEARTBEAT_ACK", {})
      const welcome = message.type === "WELCOME" && !welcomed ? (message.data as unknown as Welcome) : null
      if (welcome !== null) {
        welcomed = true
        beatEvery(welcome.heartbeatInterval * 1000, Math.random())
      }
      this.#conversation.hear(message as unknown as Message<Hears>, link)
      if (this.#drop !== drop) return
      if (welcome !== null) this.#become({ is: "online", sessionId: welcome.sessionId, node: welcome.node })
      if (message.type === "RECONNECT") {
        leaveFor = Math.random() * Number(message.data.afterMs)
        drop(`asked to come back: ${message.data.reason}`)
      }
    }
    return promise
  }
}

/** Milliseconds on a clock that nobody sets. */
export function elapsed(): number {
  return performance.now()
}

/** Wait for what is not ours, but not for ever. */
function inTime<T>(promise: Promise<T>, timeout: number): Promise<T> {
  let timer: ReturnType<typeof setTimeout>
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error("no ticket in time")), timeout)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

function endOf(error: unknown): Stopped | null {
  if (error instanceof Stopped) return error
  return error instanceof Refused && !error.retry ? new Stopped(error.status, error.code) : null
}

function read(frame: unknown): AnyMessage | null {
  try {
    const message = JSON.parse(String(frame)) as Partial<AnyMessage>
    return typeof message.type === "string" ? ({ ...message, data: message.data ?? {} } as AnyMessage) : null
  } catch {
    return null
  }
}

function later<T>(): { promise: Promise<T>; resolve: (value: T) => void } {
  let resolve!: (value: T) => void
  const promise = new Promise<T>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}
