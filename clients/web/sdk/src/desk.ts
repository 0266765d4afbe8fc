/**
 * An agent's socket: it dials, hangs up, and misses no event silently.
 *
 * Events that carry `seq` reach listeners once each and without a gap. What comes twice is dropped; where something is
 * missing it is asked for again. Only RESYNC says that continuity is lost, and it is an event too.
 */

import { Connection, type Conversation, type Link, type Message, type State } from "./connection.js"
import { Refused, Stopped, TimedOut } from "./failures.js"
import { type Dial, type FromAgent, type LiveCall, SEQUENCED, type ToAgent, type WelcomeAgent } from "./generated.js"
import { newId } from "./ids.js"
import { begun, fold, type Live } from "./live.js"
import type { Session } from "./session.js"
import { type Timing, USUAL } from "./timing.js"
import { type Listener, Topic } from "./topic.js"

/** What a page is told; the rest is between the server and this class. */
export type EventType = Exclude<
  keyof ToAgent,
  "HEARTBEAT" | "HEARTBEAT_ACK" | "ERROR" | "DIAL_ACCEPTED" | "HANGUP_ACCEPTED" | "RECONNECT"
>

/** The frame of an event. `past`: it happened while this page was away, and is contained in `live` already. */
export interface Told<Type extends EventType = EventType> {
  readonly type: Type
  readonly messageId: string
  readonly timestamp: number
  readonly seq?: number
  readonly past: boolean
}

/** How a page of a CRM gets in: `ticket` asks the CRM's server for one, before each attempt to connect. */
export interface Embedded {
  origin: string
  ticket: () => Promise<string>
}

/** `key` makes a repeat a repeat; `timeout` is in milliseconds. */
export interface Asking {
  key?: string
  timeout?: number
}

interface Asked {
  type: "DIAL" | "HANGUP"
  data: Dial | FromAgent["HANGUP"]
  resolve: (callId: string) => void
  reject: (error: Error) => void
  answer: Promise<string>
}

const CLIENT = "dialdesk-sdk/0.1.0"
const NOTHING: Live = { devices: [], calls: [], serverTime: () => Date.now() }

export class Desk {
  readonly #connection: Connection<FromAgent, ToAgent>
  readonly #events = new Map<EventType, Topic<[ToAgent[EventType], Told]>>()
  readonly #all = new Topic<[EventType, ToAgent[EventType], Told]>()
  readonly #lives = new Topic<[Live]>()
  readonly #asked = new Map<string, Asked>()
  /** Calls whose end came before the answer to their DIAL was taken in; the newest few. */
  readonly #over = new Set<string>()
  readonly #timing: Timing
  #live = NOTHING
  #lastSeq: number | null = null
  #welcomedAt = 0
  #welcome: WelcomeAgent | null = null
  #resumingFrom: number | null = null
  #link: Link<FromAgent> | null = null
  #greeted = false

  constructor(by: Session | Embedded, timing: Partial<Timing> = {}) {
    this.#timing = { ...USUAL, ...timing }
    const url = async (stale: boolean) =>
      `${by.origin.replace(/^http/, "ws")}/ws/agent?ticket=${await ticketOf(by, stale)}`
    this.#connection = new Connection(url, this.#conversation(), this.#timing)
    this.#connection.onState((state) => {
      if (state.is === "stopped") this.#refuseAll(new Stopped(state.code, state.reason))
      if (state.is === "closed") this.#refuseAll(new Stopped(1000, "closed here"))
    })
    if ("onEnd" in by) by.onEnd(() => this.#connection.reconnect()) // an attempt that is waited for learns of it now
  }

  get state(): State {
    return this.#connection.state
  }

  get live(): Live {
    return this.#live
  }

  /**
   * Open the socket, to be kept open from now on; resolves with the first WELCOME, or the newest where there was one.
   * Rejects with Stopped.
   */
  connect(): Promise<WelcomeAgent> {
    if (this.#welcome !== null && this.state.is === "online") return Promise.resolve(this.#welcome)
    return new Promise((resolve, reject) => {
      const offs = [
        this.on("WELCOME", (welcome) => {
          for (const off of offs) off()
          resolve(welcome)
        }),
        this.#connection.onState((state) => {
          if (state.is !== "stopped") return
          queueMicrotask(() => {
            for (const off of offs) off()
          })
          reject(new Stopped(state.code, state.reason))
        }),
      ]
      this.#connection.open()
    })
  }

  /** Close the socket for good. */
  close(): void {
    this.#connection.close()
  }

  /** Try at once, where the next attempt is being waited for. */
  reconnect(): void {
    this.#connection.reconnect()
  }

  /** Tell a listener the state of the connection, at once and whenever it changes. */
  onState(listener: Listener<[State]>): () => void {
    return this.#connection.onState(listener)
  }

  /** Tell a listener of phones and living calls, at once and whenever they change. */
  onLive(listener: Listener<[Live]>): () => void {
    const off = this.#lives.add(listener)
    listener(this.#live)
    return off
  }

  /** Tell a listener of each event of a type, once, in order. */
  on<Type extends EventType>(type: Type, listener: Listener<[ToAgent[Type], Told<Type>]>): () => void {
    const topic = this.#events.get(type) ?? new Topic<[ToAgent[EventType], Told]>()
    this.#events.set(type, topic)
    return topic.add(listener as unknown as Listener<[ToAgent[EventType], Told]>)
  }

  /** Tell a listener of each event, once, in order. */
  onAny(listener: Listener<[EventType, ToAgent[EventType], Told]>): () => void {
    return this.#all.add(listener)
  }

  /**
   * Start a call, and return its id; asked again with the same `key`, the same call. While there is no socket it waits
   * for the next. Throws Refused, TimedOut and Stopped.
   */
  async dial(fields: Dial, { key, timeout }: Asking = {}): Promise<string> {
    const callId = await this.#ask("DIAL", fields, key, timeout)
    const { customerPhone, callMethod, lineId: _, userId, ...more } = fields
    const createdAt = new Date(this.#live.serverTime()).toISOString()
    const call: LiveCall = { ...more, callId, status: "pending", customerPhone: "", callMethod: "mobile", createdAt }
    if (customerPhone != null) call.customerPhone = customerPhone
    if (callMethod != null) call.callMethod = callMethod
    if (userId == null && !this.#over.has(callId)) this.#show(begun(this.#live, call))
    return callId
  }

  /** Ask for the end of a call; it has ended when CALL_ENDED says so. Throws Refused, TimedOut and Stopped. */
  async hangUp(callId: string, { timeout }: Asking = {}): Promise<void> {
    await this.#ask("HANGUP", { callId }, undefined, timeout)
  }

  #ask(type: Asked["type"], data: Asked["data"], key = newId(), timeout = this.#timing.timeout): Promise<string> {
    const { state } = this.#connection
    if (state.is === "stopped") return Promise.reject(new Stopped(state.code, state.reason))
    const asked = this.#asked.get(key)
    if (asked !== undefined) return asked.answer
    let waiting!: Omit<Asked, "answer">
    const answer = new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => reject(new TimedOut("no answer in time")), timeout)
      const settled = <T>(settle: (value: T) => void) => {
        return (value: T) => {
          clearTimeout(timer)
          settle(value)
        }
      }
      waiting = { type, data, resolve: settled(resolve), reject: settled(reject) }
    }).finally(() => this.#asked.delete(key))
    this.#asked.set(key, { ...waiting, answer })
    if (this.#greeted) this.#link?.send(type, data, key)
    return answer
  }

  #refuseAll(why: Error): void {
    for (const asked of this.#asked.values()) asked.reject(why)
  }

  #conversation(): Conversation<FromAgent, ToAgent> {
    return {
      begin: (link) => {
        this.#link = link
        this.#greeted = false
        this.#resumingFrom = null
        this.#hello(link)
      },
      hear: (message, link) => this.#hear(message, link),
      end: () => {
        this.#link = null
        this.#greeted = false
      },
    }
  }

  #hear(message: Message<ToAgent>, link: Link<FromAgent>): void {
    switch (message.type) {
      case "WELCOME":
        this.#lastSeq ??= message.data.lastSeq
        this.#welcomedAt = message.data.lastSeq
        this.#welcome = message.data
        this.#emit(message, false)
        this.#greet(link)
        return
      case "RESYNC":
        this.#lastSeq = message.data.toSeq
        this.#emit(message, false)
        if (message.data.toSeq > this.#welcomedAt) this.#hello(link) // another WELCOME, which makes `live` right again
        return
      case "HEARTBEAT_ACK":
        if ((message.data.lastSeq ?? 0) > (this.#lastSeq ?? 0)) {
          this.#resumingFrom = null
          this.#resume(link)
        }
        return
      case "DIAL_ACCEPTED":
      case "HANGUP_ACCEPTED":
        this.#asked.get(message.data.messageId)?.resolve(message.data.callId)
        return
      case "ERROR": {
        const { code, message: text, retry, details, messageId } = message.data
        this.#asked.get(messageId ?? "")?.reject(new Refused(code, text, retry, 0, details))
        return
      }
      default:
        if (SEQUENCED.has(message.type) && this.#inOrder(message.seq, link)) {
          this.#emit(message as Message<Pick<ToAgent, EventType>>, Number(message.seq) <= this.#welcomedAt)
        }
    }
  }

  /** The session stands: ask what waits for an answer, again under the ids it was asked under first. */
  #greet(link: Link<FromAgent>): void {
    if (this.#greeted) return
    this.#greeted = true
    for (const [key, asked] of this.#asked) link.send(asked.type, asked.data, key)
  }

  /** Whether an event is the next one. One that comes too early is not kept: asking again brings it too. */
  #inOrder(seq: number | undefined, link: Link<FromAgent>): boolean {
    if (seq === undefined || this.#lastSeq === null || seq <= this.#lastSeq) return false
    if (seq > this.#lastSeq + 1) {
      this.#resume(link)
      return false
    }
    this.#lastSeq = seq
    return true
  }

  /** Ask for what follows the last event, once per gap, however many events come behind it. */
  #resume(link: Link<FromAgent>): void {
    if (this.#resumingFrom === this.#lastSeq) return
    this.#resumingFrom = this.#lastSeq
    this.#hello(link)
  }

  #hello(link: Link<FromAgent>): void {
    link.send("HELLO", this.#lastSeq === null ? { client: CLIENT } : { client: CLIENT, lastSeq: this.#lastSeq })
  }

  #emit(message: Message<Pick<ToAgent, EventType>>, past: boolean): void {
    const { type, data, messageId, timestamp, seq } = message
    const told: Told = { type, messageId, timestamp, past, ...(seq === undefined ? {} : { seq }) }
    if (message.type === "CALL_ENDED") this.#remember(message.data.callId)
    if (!past) this.#show(fold(this.#live, message))
    this.#events.get(type)?.tell(data, told)
    this.#all.tell(type, data, told)
  }

  #remember(callId: string): void {
    this.#over.add(callId)
    const [oldest] = this.#over
    if (this.#over.size > 100 && oldest !== undefined) this.#over.delete(oldest)
  }

  #show(live: Live): void {
    if (live === this.#live) return
    this.#live = live
    this.#lives.tell(live)
  }
}

async function ticketOf(by: Session | Embedded, stale: boolean): Promise<string> {
  if ("ticket" in by) return await by.ticket()
  if (stale) await by.renew()
  return (await by.ask("POST /api/v1/auth/ws-ticket")).ticket
}
