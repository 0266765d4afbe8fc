/**
 * A work phone that is a web page (docs/protocol.md, "Duties of the phone"); FACE.md tells how it is used.
 *
 * A page sees nothing of a call: a person tells it what happens, and every report says `assumed`. What is written down
 * is written before it is acted on, and one thing is done after the other.
 */

import { ask } from "./api.js"
import { Connection, type Conversation, elapsed, type Link, type Message, type State } from "./connection.js"
import { Refused, Stopped } from "./failures.js"
import type {
  CallEnd,
  CallStatus,
  CancelDial,
  Capabilities,
  DialCommand,
  FromPhone,
  HangupCause,
  Outcome,
  ToPhone,
  WelcomePhone,
} from "./generated.js"
import { newId } from "./ids.js"
import { type Binding, type CallRecord, type Draft, type Handset, Memory, type Report } from "./memory.js"
import { Outbox } from "./outbox.js"
import { NotACode, originOf, readCode } from "./pairing.js"
import type { Language } from "./session.js"
import type { Store } from "./store.js"
import { type Timing, USUAL } from "./timing.js"
import { type Listener, Topic } from "./topic.js"
import { Uploads } from "./uploads.js"

export { Refused, Stopped, TimedOut, Unreachable } from "./failures.js"
export type { Binding, Handset } from "./memory.js"
export { type BindCode, NotACode, readCode } from "./pairing.js"
export { IndexedDbStore, MemoryStore, type Store } from "./store.js"
export type { Language, State, Timing }

export interface PhoneOptions {
  /** Where the server is, for a typed code; given with a QR code it is taken instead of what that tells. */
  origin?: string
  language?: Language
  capabilities?: Capabilities
  timing?: Partial<Timing>
}

/** `prompt` waits for a person to dial. */
export type Stage = "prompt" | "calling" | "ringing" | "connected" | "ended"

/** One call as the page shows it. Times are epoch milliseconds; `expiresAt` is the server's. */
export interface PhoneCall {
  readonly callId: string
  readonly customerPhone: string
  readonly customerName?: string
  readonly customerId?: string
  readonly orderId?: string
  readonly consentNotice?: string
  readonly record: boolean
  readonly stage: Stage
  readonly expiresAt: number
  /** Seconds in which it can still be dialled. */
  secondsLeft(): number
  readonly startedAt?: number
  readonly connectedAt?: number
  readonly endedAt?: number
  readonly outcome?: string
  readonly cause?: string
  /** Where its recording is; left out where none was attached. */
  readonly recording?: "waiting" | "stored"
}

export interface PhoneView {
  readonly binding: Binding | null
  /** The call to be dialled, or under way. */
  readonly current: PhoneCall | null
  /** Calls that are over, the newest first. */
  readonly history: readonly PhoneCall[]
  /** How many reports the server has not acknowledged. */
  readonly unacked: number
  /** Recordings on their way. */
  readonly recordings: readonly { readonly callId: string; readonly size: number }[]
  /** Reports and recordings that the server will never take, since this page was opened. */
  readonly refused: readonly { readonly callId: string; readonly code: string }[]
}

/** How a call ended, as the person at the phone says. */
export interface End {
  status: Outcome
  hangupCause?: HangupCause
  /** Seconds of talk; left out, they are counted from the answer that was reported. */
  duration?: number
  hasRecording?: boolean
}

/** After so long nobody knows any more how a call went that a former life of the page began. */
const OWN_UP_AFTER = 4 * 3600 * 1000

const STEPS: readonly Stage[] = ["calling", "ringing", "connected"]
const LOCK = "dialdesk-phone"

export class Phone {
  readonly #store: Store
  readonly #options: PhoneOptions
  readonly #timing: Timing
  readonly #connection: Connection<FromPhone, ToPhone>
  readonly #outbox: Outbox
  readonly #uploads: Uploads
  readonly #states = new Topic<[State]>()
  readonly #changes = new Topic<[PhoneView]>()
  readonly #dials = new Topic<[PhoneCall]>()
  readonly #cancels = new Topic<[PhoneCall]>()
  readonly #refused: { callId: string; code: string }[] = []
  readonly #prompted = new Map<string, ReturnType<typeof setTimeout>>()
  readonly #bootId = newId()
  #memory: Memory
  #state: State = { is: "closed" }
  #turn: Promise<unknown> = Promise.resolve()
  #link: Link<FromPhone> | null = null
  #onlineSent: Moment | null = null
  #serverTime: (() => number) | null = null
  /** Whether this is the tab that is the phone: only it may write. */
  #mine = false
  #busy = false
  #held: AbortController | null = null
  #release: (() => void) | null = null

  /** Take up the binding that a store holds; null where it holds none. */
  static async open(store: Store, options: PhoneOptions = {}): Promise<Phone | null> {
    const memory = await Memory.open(store)
    return memory.binding === null ? null : new Phone(store, memory, options)
  }

  /**
   * Bind this phone by the text of a QR code or by eight typed characters. `force` ends a call that the server believes
   * is under way on it. The code works once: where no answer came, ask for another. Throws NotACode, Refused
   * (BIND_TOKEN_INVALID, DEVICE_ON_CALL …) and Unreachable.
   */
  static async bind(
    store: Store,
    code: string,
    handset: Handset,
    { force, ...options }: PhoneOptions & { force?: boolean } = {},
  ): Promise<Phone> {
    const { token, origin: told } = readCode(code)
    const origin = options.origin ?? told
    if (origin === undefined) throw new NotACode("a typed code does not tell where the server is")
    const body = { ...handset, token, ...(force ? { force } : {}) }
    const headers = { "Accept-Language": options.language ?? "zh-CN" }
    const { binding: before } = await Memory.open(store) // by the answer another tab may have forgotten it
    const answer = await ask(origin, "POST /api/v1/calls/device/bind", { body, headers })
    const memory = await Memory.open(store)
    const socketUrl = options.origin === undefined ? answer.websocketUrl : `${origin.replace(/^http/, "ws")}/ws/phone`
    const { id, userId, authToken } = answer
    await memory.bind({ origin: originOf(socketUrl), id, userId, authToken, socketUrl, handset }, before)
    return new Phone(store, memory, options)
  }

  private constructor(store: Store, memory: Memory, options: PhoneOptions) {
    this.#store = store
    this.#memory = memory
    this.#options = options
    this.#timing = { ...USUAL, ...options.timing }
    this.#connection = new Connection(() => this.#url(), this.#conversation(), this.#timing)
    this.#connection.onState((state) => this.#heed(state))
    this.#outbox = new Outbox(() => this.#memory.unacked, this.#timing)
    this.#uploads = new Uploads(
      () => this.#memory,
      this.#timing,
      () => this.#credentials(),
      (callId, code) => this.#brought(callId, code),
      (recording) => this.#inTurn(() => this.#write((draft) => draft.recording(recording))),
    )
  }

  // --- its life ------------------------------------------------------------------------------------------------------

  get state(): State {
    return this.#state
  }

  get view(): PhoneView {
    const calls = [...this.#memory.calls.values()].reverse().filter((call) => call.dial !== undefined)
    const current = calls.find((call) => call.endedAt === undefined)
    const over = calls.filter((call) => call.endedAt !== undefined)
    return {
      binding: this.#memory.binding,
      current: current === undefined ? null : this.#shown(current),
      history: over.map((call) => this.#shown(call)),
      unacked: this.#memory.unacked.size,
      recordings: [...this.#memory.recordings.values()].map(({ callId, file }) => ({ callId, size: file.size })),
      refused: [...this.#refused],
    }
  }

  /** Tell a listener the state of the connection, at once and whenever it changes. */
  onState(listener: Listener<[State]>): () => void {
    const off = this.#states.add(listener)
    listener(this.#state)
    return off
  }

  /** Tell a listener what is to be shown, at once and whenever it changes. */
  onChange(listener: Listener<[PhoneView]>): () => void {
    const off = this.#changes.add(listener)
    listener(this.view)
    return off
  }

  /** Tell a listener of a call to be dialled: once a call, and again after the page was loaded anew. */
  onDial(listener: Listener<[PhoneCall]>): () => void {
    return this.#dials.add(listener)
  }

  /** Tell a listener that a call is not to be dialled any more, or, at another stage, to be hung up by hand. */
  onCancel(listener: Listener<[PhoneCall]>): () => void {
    return this.#cancels.add(listener)
  }

  /** Connect, and stay connected; wait where another tab of this browser holds the phone. */
  start(): void {
    if (this.#held !== null) return
    const held = new AbortController()
    this.#held = held
    const locks = globalThis.navigator?.locks
    if (locks === undefined) {
      void this.#live()
      return
    }
    this.#become({ is: "waiting", attempt: 0, retryAt: Date.now(), why: "another tab" })
    const name = `${LOCK} ${this.#store.name}`
    const ended = locks.request(name, { signal: held.signal }, async () => {
      const released = new Promise<void>((resolve) => {
        this.#release = resolve
      })
      await this.#live()
      await released
    })
    ended.catch((error: unknown) => {
      if (!held.signal.aborted) throw error
    })
  }

  /** Disconnect, and wait until what was begun is written down. */
  async close(): Promise<void> {
    this.#connection.close()
    this.#rest()
    await this.#turn
    this.#mine = false
    if (this.#release !== null) this.#release()
    else this.#held?.abort()
    this.#become({ is: "closed" })
  }

  /** Try at once, where the next attempt is being waited for. */
  reconnect(): void {
    this.#connection.reconnect()
  }

  /** Whether the handset is on a private call; while it is, dials are refused with DEVICE_BUSY. */
  get handsetBusy(): boolean {
    return this.#busy
  }

  set handsetBusy(busy: boolean) {
    if (busy === this.#busy) return
    this.#busy = busy
    if (this.#state.is === "online") this.#link?.send("HEARTBEAT", { handsetBusy: busy })
  }

  /** What another tab did meanwhile is read anew. */
  async #live(): Promise<void> {
    try {
      this.#memory = await Memory.open(this.#store)
    } catch {
      this.#become({ is: "stopped", code: 0, reason: "STORE_UNAVAILABLE" }) // without it nothing may be dialled
      return
    }
    if (this.#held?.signal.aborted) return
    if (this.#memory.binding === null) {
      this.#become({ is: "stopped", code: UNBOUND, reason: "DEVICE_UNBOUND" })
      return
    }
    this.#mine = true
    await this.#inTurn(() => this.#ownUp())
    this.#connection.open()
    this.#uploads.look()
    this.#changes.tell(this.view)
  }

  /** Report what a former life of the page began and nobody will tell the end of. */
  async #ownUp(): Promise<void> {
    for (const call of [...this.#memory.calls.values()]) {
      const lost = call.startedAt !== undefined && call.endedAt === undefined
      if (lost && Date.now() - (call.startedAt ?? 0) > OWN_UP_AFTER) await this.#endUnseen(call, "unknown", "UNKNOWN")
    }
  }

  #heed(state: State): void {
    if (state.is === "closed") return
    if (state.is !== "stopped" || state.code !== UNBOUND) {
      this.#become(state)
      return
    }
    void this.#inTurn(() => this.#unbound(state))
  }

  /** Forget the binding that was ended. One that another tab made meanwhile stays, and makes this tab the older. */
  async #unbound(state: State & { is: "stopped" }): Promise<void> {
    let newer = state.reason === "rebound" // whoever did so may not have written it down yet
    try {
      const { binding } = await Memory.open(this.#store)
      newer ||= binding !== null && binding.authToken !== this.#memory.binding?.authToken
      await this.#memory.unbind(newer)
    } catch {
      // what could not be forgotten now is so at the next start
    }
    this.#become(newer ? { is: "stopped", code: REPLACED, reason: state.reason } : state)
    this.#changes.tell(this.view)
  }

  /** Begin nothing more by itself. */
  #rest(): void {
    this.#uploads.close()
    for (const timer of this.#prompted.values()) clearTimeout(timer)
  }

  #become(state: State): void {
    this.#state = state
    if (state.is === "stopped") {
      this.#mine = false
      this.#rest()
      this.#release?.() // another tab, or a new binding, may have the phone
    }
    this.#states.tell(state)
  }

  // --- what a person does, in the tab that is the phone: elsewhere it is refused with InvalidStateError -----------------

  /**
   * Dial: write that it was begun, report it, and return the number to call; null where the call is not to be dialled
   * any more.
   */
  dial(callId: string): Promise<string | null> {
    return this.#act(async () => {
      const call = this.#memory.calls.get(callId)
      if (call?.dial === undefined || call.startedAt !== undefined || call.endedAt !== undefined) return null
      if (this.#serverTime === null) return null
      const objection = this.#objection(call, call.dial)
      if (objection !== null) {
        await this.#endUnseen(call, ...objection)
        return null
      }
      this.#unprompt(callId)
      await this.#step({ ...call, startedAt: Date.now() }, "calling")
      return call.dial.customerPhone
    })
  }

  /** Report what is seen of a call that was dialled. A step back changes nothing. */
  report(callId: string, status: "ringing" | "connected"): Promise<void> {
    return this.#act(async () => {
      const call = this.#underWay(callId)
      if (call === null || STEPS.indexOf(status) <= STEPS.indexOf(call.status ?? "calling")) return
      await this.#step(status === "connected" ? { ...call, connectedAt: Date.now() } : call, status)
    })
  }

  /** Report the end of a call that was dialled. Said again, it changes nothing. */
  end(callId: string, { status, hangupCause, duration, hasRecording }: End): Promise<void> {
    return this.#act(async () => {
      const call = this.#underWay(callId)
      if (call === null) return
      const now = Date.now()
      const end: CallEnd = { callId, status, endTime: new Date(now).toISOString(), evidence: "assumed" }
      if (hangupCause !== undefined) end.hangupCause = hangupCause
      if (hasRecording !== undefined) end.hasRecording = hasRecording
      if (status === "connected") {
        if (call.connectedAt !== undefined) end.startTime = new Date(call.connectedAt).toISOString()
        const counted = call.connectedAt === undefined ? undefined : Math.round((now - call.connectedAt) / 1000)
        const told = duration ?? counted
        if (told !== undefined) end.duration = told
      }
      await this.#over(call, end)
    })
  }

  /** Say why a call is not dialled, before it is. */
  refuse(callId: string, cause: "NO_PERMISSION" | "DEVICE_BUSY" | "NO_SIM"): Promise<void> {
    return this.#act(async () => {
      const call = this.#memory.calls.get(callId)
      if (call === undefined || call.startedAt !== undefined || call.endedAt !== undefined) return
      await this.#endUnseen(call, "failed", cause)
    })
  }

  /** Bring the recording of a call, kept here until the server has it. Throws RangeError for a call not known here. */
  attachRecording(callId: string, file: Blob): Promise<void> {
    return this.#act(async () => {
      const call = this.#memory.calls.get(callId)
      if (call === undefined) throw new RangeError("this phone has no such call")
      await this.#write((draft) => {
        draft.recording({ number: draft.number(), callId, file })
        draft.call({ ...call, recording: "waiting" })
      })
      this.#uploads.look()
    })
  }

  #act<T>(work: () => Promise<T>): Promise<T> {
    if (this.#mine) return this.#inTurn(work)
    return Promise.reject(new DOMException("this page is not the phone: it waits, or has stopped", "InvalidStateError"))
  }

  #underWay(callId: string): CallRecord | null {
    const call = this.#memory.calls.get(callId)
    return call?.startedAt !== undefined && call.endedAt === undefined ? call : null
  }

  // --- the conversation ----------------------------------------------------------------------------------------------

  #credentials(): Record<string, string> {
    const binding = this.#memory.binding
    if (binding === null) throw new Stopped(UNBOUND, "DEVICE_UNBOUND")
    return {
      Authorization: `Bearer ${binding.authToken}`,
      "X-Device-Id": binding.handset.deviceId,
      "Accept-Language": this.#options.language ?? "zh-CN",
    }
  }

  async #url(): Promise<string> {
    await this.#inTurn(() => this.#memory.write((draft) => draft.connection(this.#memory.connection + 1)))
    const headers = this.#credentials()
    const { origin, socketUrl } = this.#memory.binding as Binding
    try {
      const { ticket } = await ask(origin, "POST /api/v1/auth/ws-ticket", { headers, timeout: this.#timing.timeout })
      return `${socketUrl}?ticket=${ticket}`
    } catch (error) {
      if (error instanceof Refused && error.code === "DEVICE_UNBOUND") throw new Stopped(UNBOUND, error.code)
      throw error
    }
  }

  #conversation(): Conversation<FromPhone, ToPhone> {
    return {
      begin: (link) => {
        this.#link = link
        this.#onlineSent = moment()
        link.send("DEVICE_ONLINE", this.#online())
      },
      hear: (message, link) => {
        this.#inTurn(() => this.#hear(message, link)).catch((error: unknown) => {
          link.drop(`the phone could not write it down: ${error}`) // what was not acknowledged is sent again
        })
      },
      end: () => {
        this.#link = null
        this.#outbox.close()
      },
    }
  }

  #online(): FromPhone["DEVICE_ONLINE"] {
    const { handset } = this.#memory.binding as Binding
    const under = [...this.#memory.calls.values()].find((call) => this.#underWay(call.callId) !== null)
    return {
      appVersion: handset.appVersion,
      osType: handset.osType,
      osVersion: handset.osVersion,
      capabilities: this.#options.capabilities ?? {},
      bootId: this.#bootId,
      connection: this.#memory.connection,
      pendingReports: this.#memory.unacked.size,
      ...(under !== undefined ? { activeCall: { callId: under.callId, status: under.status ?? "calling" } } : {}),
      ...(under === undefined && this.#busy ? { activeCall: {} } : {}),
    }
  }

  async #hear(message: Message<ToPhone>, link: Link<FromPhone>): Promise<void> {
    switch (message.type) {
      case "WELCOME":
        return this.#begin(message.data, link)
      case "DIAL_COMMAND":
        return this.#obey(message.messageId, message.data.callId, message.data, link)
      case "CANCEL_DIAL":
        return this.#obey(message.messageId, message.data.callId, null, link)
      case "ACK":
        return this.#settle(message.data.messageId, null)
      case "ERROR":
        if (message.data.messageId != null && !message.data.retry) {
          await this.#settle(message.data.messageId, message.data.code)
        }
    }
  }

  /** The session stands: set the clock, send what is unacknowledged, obey what waited. */
  async #begin(welcome: WelcomePhone, link: Link<FromPhone>): Promise<void> {
    // The server's time was taken after DEVICE_ONLINE left here, so this is never behind its clock.
    const sent = this.#onlineSent ?? moment()
    this.#serverTime = () => welcome.serverTime + since(sent)
    if (this.#link === link) this.#outbox.open(link)
    for (const { type, messageId, data } of welcome.commands ?? []) {
      if (type === "DIAL_COMMAND") {
        const dial = data as DialCommand
        await this.#obey(messageId, dial.callId, dial, link)
      } else if (type === "CANCEL_DIAL") {
        await this.#obey(messageId, (data as CancelDial).callId, null, link)
      }
    }
    for (const callId of [...this.#memory.calls.keys()]) await this.#consider(callId)
  }

  // --- commands ------------------------------------------------------------------------------------------------------

  /** Write a command down, acknowledge it, and act on it; to a repeated one say again what was said last of its call. */
  async #obey(messageId: string, callId: string, dial: DialCommand | null, link: Link<FromPhone>): Promise<void> {
    const known = this.#memory.calls.get(callId)
    const repeated = known?.commands.includes(messageId) ?? false
    if (!repeated) {
      await this.#write((draft) => {
        const call: CallRecord = known ?? { number: draft.number(), callId, commands: [], cancelled: false }
        const commands = [...call.commands, messageId]
        draft.call(dial === null ? { ...call, commands, cancelled: true } : { ...call, commands, dial })
      })
    }
    link.send("ACK", { messageId })
    const call = this.#memory.calls.get(callId) as CallRecord
    if (call.last !== undefined && (repeated || call.endedAt !== undefined)) this.#outbox.repeat(call.last)
    else if (dial !== null) await this.#consider(callId)
    else if (call.startedAt === undefined) await this.#endUnseen(call, "cancelled", "CANCELLED")
    else this.#cancels.tell(this.#shown(call))
  }

  /** Ask a person to dial, or say why it is not dialled. Nothing is done while server time is unknown. */
  async #consider(callId: string): Promise<void> {
    const call = this.#memory.calls.get(callId)
    if (call?.dial === undefined || call.startedAt !== undefined || call.endedAt !== undefined) return
    if (this.#serverTime === null) return
    const objection = this.#objection(call, call.dial)
    if (objection !== null) {
      await this.#endUnseen(call, ...objection)
    } else if (!this.#prompted.has(callId)) {
      const look = () =>
        void this.#inTurn(() => this.#consider(callId)).catch(() => this.#link?.drop("not written down"))
      this.#prompted.set(callId, setTimeout(look, call.dial.expiresAt - this.#serverTime() + 1))
      this.#dials.tell(this.#shown(call))
    }
  }

  #objection(call: CallRecord, dial: DialCommand): [Outcome, HangupCause] | null {
    if (call.cancelled) return ["cancelled", "CANCELLED"]
    if (this.#serverTime !== null && this.#serverTime() >= dial.expiresAt) return ["failed", "EXPIRED"]
    const onCall = [...this.#memory.calls.keys()].some((callId) => this.#underWay(callId) !== null)
    return onCall || this.#busy ? ["failed", "DEVICE_BUSY"] : null
  }

  #unprompt(callId: string): boolean {
    clearTimeout(this.#prompted.get(callId))
    return this.#prompted.delete(callId)
  }

  // --- reports -------------------------------------------------------------------------------------------------------

  async #step(call: CallRecord, status: CallStatus["status"]): Promise<void> {
    const data: CallStatus = { callId: call.callId, status, timestamp: Date.now(), evidence: "assumed" }
    await this.#put({ ...call, status }, { type: "CALL_STATUS", data })
  }

  /** Report the end of a call that was not dialled here, or not seen to its end. */
  async #endUnseen(call: CallRecord, status: Outcome, hangupCause: HangupCause): Promise<void> {
    const endTime = new Date().toISOString()
    await this.#over(call, { callId: call.callId, status, hangupCause, endTime, evidence: "assumed" })
    const prompted = this.#unprompt(call.callId)
    const ended = this.#memory.calls.get(call.callId)
    if (prompted && ended !== undefined) this.#cancels.tell(this.#shown(ended))
  }

  async #over(call: CallRecord, data: CallEnd): Promise<void> {
    const cause = data.hangupCause == null ? {} : { cause: data.hangupCause }
    await this.#put({ ...call, endedAt: Date.now(), outcome: data.status, ...cause }, { type: "CALL_END", data })
  }

  /** Write a report and what it makes of its call down, and send it as soon as may be. */
  async #put(call: CallRecord, said: Pick<Report, "type" | "data">): Promise<void> {
    await this.#write((draft) => {
      const number = draft.number()
      const report = { ...said, number, messageId: newId(), callId: call.callId, timestamp: Date.now() } as Report
      draft.report(report)
      draft.call({ ...call, last: report })
    })
    this.#outbox.look()
  }

  /** The server has a report, or refused it for good with this code. */
  async #settle(messageId: string, code: string | null): Promise<void> {
    const report = this.#memory.unacked.get(messageId)
    if (report === undefined) return
    if (code !== null) this.#refused.push({ callId: report.callId, code })
    await this.#write((draft) => draft.settle(messageId))
    this.#outbox.look()
    this.#uploads.look()
  }

  /** A recording is stored, or with a code never will be. */
  #brought(callId: string, code: string | null): Promise<void> {
    return this.#inTurn(async () => {
      if (code !== null) this.#refused.push({ callId, code })
      const call = this.#memory.calls.get(callId)
      await this.#write((draft) => {
        draft.brought(callId)
        if (call === undefined) return
        const { recording: _, ...without } = call
        draft.call(code === null ? { ...call, recording: "stored" } : without)
      })
    })
  }

  // --- one thing after the other -------------------------------------------------------------------------------------

  async #write(make: (draft: Draft) => void): Promise<void> {
    await this.#memory.write(make)
    this.#changes.tell(this.view)
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => {}) // whoever asked for it hears of its failure
    return done
  }

  #shown(call: CallRecord): PhoneCall {
    const { callId, startedAt, connectedAt, endedAt, outcome, cause, recording, dial } = call
    const stage: Stage =
      endedAt !== undefined ? "ended" : startedAt === undefined ? "prompt" : (call.status ?? "calling")
    const expiresAt = dial?.expiresAt ?? 0
    return {
      callId,
      customerPhone: dial?.customerPhone ?? "",
      record: dial?.record ?? false,
      stage,
      expiresAt,
      secondsLeft: () => Math.max(0, (expiresAt - (this.#serverTime?.() ?? Date.now())) / 1000),
      ...told({ startedAt, connectedAt, endedAt, outcome, cause, recording }),
      ...told({ customerName: dial?.customerName, customerId: dial?.customerId, orderId: dial?.orderId }),
      ...told({ consentNotice: dial?.consentNotice }),
    }
  }
}

const REPLACED = 4501
const UNBOUND = 4503

interface Moment {
  elapsed: number
  date: number
}

function moment(): Moment {
  return { elapsed: elapsed(), date: Date.now() }
}

/** Milliseconds since. One clock may stand still while the handset sleeps and the other may be set: the later counts. */
function since(then: Moment): number {
  return Math.max(elapsed() - then.elapsed, Date.now() - then.date)
}

type Present<Fields> = { [Name in keyof Fields]?: NonNullable<Fields[Name]> }

/** The fields that tell something. */
function told<Fields extends Record<string, unknown>>(fields: Fields): Present<Fields> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null)) as Present<Fields>
}
