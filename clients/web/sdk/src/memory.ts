/** What a phone knows of its binding, its calls and its reports: written down before it acts on it. */

import type { BindRequest, CallEnd, CallStatus, DialCommand } from "./generated.js"
import type { Store } from "./store.js"

/** Calls remembered; the oldest that is over and acknowledged goes first. */
const KEEP_CALLS = 100

/** What a phone says of itself when it is bound. */
export type Handset = Omit<BindRequest, "token" | "force">

/** To whom the phone belongs, and by what it proves that. */
export interface Binding {
  readonly origin: string
  readonly id: string
  readonly userId: string
  readonly authToken: string
  readonly socketUrl: string
  readonly handset: Handset
}

/** What the phone said of a call. Its id and content stay the same however often it is sent. */
export type Report = {
  readonly number: number
  readonly messageId: string
  readonly callId: string
  readonly timestamp: number
} & (
  | { readonly type: "CALL_STATUS"; readonly data: CallStatus }
  | { readonly type: "CALL_END"; readonly data: CallEnd }
)

/** One call as this phone has it. `last` answers a repeated command: the end, once there is one. */
export interface CallRecord {
  readonly number: number
  readonly callId: string
  readonly commands: readonly string[]
  readonly dial?: DialCommand
  readonly cancelled: boolean
  readonly status?: CallStatus["status"]
  readonly startedAt?: number
  readonly connectedAt?: number
  readonly endedAt?: number
  readonly outcome?: string
  readonly cause?: string
  readonly recording?: "waiting" | "stored"
  readonly last?: Report
}

/** A recording that is to be brought. `uploadId` names an upload in parts that was begun. */
export interface RecordingRecord {
  readonly number: number
  readonly callId: string
  readonly file: Blob
  readonly uploadId?: string
}

interface State {
  bindings: Map<string, Binding>
  connection: number
  calls: Map<string, CallRecord>
  unacked: Map<string, Report>
  recordings: Map<string, RecordingRecord>
}

/** Changes are made to this, written, and only then so. */
export class Draft {
  readonly changes = new Map<string, unknown>()

  constructor(private readonly numbered: () => number) {}

  /** A number higher than all before, for what must keep its order. */
  number(): number {
    return this.numbered()
  }

  /** Each binding has a key of its own: who forgets an older one, as another tab may at any time, leaves it alone. */
  bind(binding: Binding): void {
    this.changes.set(`binding/${binding.authToken}`, binding)
  }

  connection(count: number): void {
    this.changes.set("connection", count)
  }

  call(call: CallRecord): void {
    this.changes.set(`call/${call.callId}`, call)
  }

  report(report: Report): void {
    this.changes.set(`report/${report.messageId}`, report)
  }

  settle(messageId: string): void {
    this.changes.set(`report/${messageId}`, undefined)
  }

  recording(recording: RecordingRecord): void {
    this.changes.set(`recording/${recording.callId}`, recording)
  }

  brought(callId: string): void {
    this.changes.set(`recording/${callId}`, undefined)
  }
}

export class Memory {
  readonly #store: Store
  readonly #state: State = {
    bindings: new Map(),
    connection: 0,
    calls: new Map(),
    unacked: new Map(),
    recordings: new Map(),
  }
  #number = 0

  static async open(store: Store): Promise<Memory> {
    const memory = new Memory(store)
    const entries = [...(await store.load())].sort(([, one], [, other]) => numberOf(one) - numberOf(other))
    for (const [key, value] of entries) memory.#apply(key, value)
    memory.#number = Math.max(0, ...entries.map(([, value]) => numberOf(value)))
    return memory
  }

  private constructor(store: Store) {
    this.#store = store
  }

  get binding(): Binding | null {
    return [...this.#state.bindings.values()].at(-1) ?? null
  }

  get connection(): number {
    return this.#state.connection
  }

  /** By call id, in the order in which they came. */
  get calls(): ReadonlyMap<string, CallRecord> {
    return this.#state.calls
  }

  /** Reports not yet acknowledged, by message id, in the order in which they were made. */
  get unacked(): ReadonlyMap<string, Report> {
    return this.#state.unacked
  }

  /** Recordings that the server may not have yet, by call id, in their order. */
  get recordings(): ReadonlyMap<string, RecordingRecord> {
    return this.#state.recordings
  }

  /** Write changes down, all or none; when this resolves they are so. */
  async write(make: (draft: Draft) => void): Promise<void> {
    const draft = new Draft(() => ++this.#number)
    make(draft)
    this.#forgetOldest(draft)
    await this.#store.write(draft.changes)
    for (const [key, value] of draft.changes) this.#apply(key, value)
  }

  /** Be bound anew. What was done is still told where it is the same phone of the same agent, and forgotten elsewhere. */
  async bind(binding: Binding, before: Binding | null): Promise<void> {
    const { origin, id, userId } = binding
    const same = before?.origin === origin && before.id === id && before.userId === userId
    await this.write((draft) => {
      this.#unbind(draft)
      if (!same) this.#forget(draft)
      draft.bind(binding)
    })
  }

  /** Forget the binding, and unless it `goesOn` elsewhere all that was done under it; not the count of connections. */
  async unbind(goesOn: boolean): Promise<void> {
    await this.write((draft) => {
      this.#unbind(draft)
      if (!goesOn) this.#forget(draft)
    })
  }

  #unbind({ changes }: Draft): void {
    for (const key of this.#state.bindings.keys()) changes.set(key, undefined)
  }

  #forget({ changes }: Draft): void {
    const { calls, unacked, recordings } = this.#state
    for (const callId of calls.keys()) changes.set(`call/${callId}`, undefined)
    for (const messageId of unacked.keys()) changes.set(`report/${messageId}`, undefined)
    for (const callId of recordings.keys()) changes.set(`recording/${callId}`, undefined)
  }

  #apply(key: string, value: unknown): void {
    const [kind, id = ""] = key.split(/\/(.*)/, 2)
    switch (kind) {
      case "binding":
        put(this.#state.bindings, key, value as Binding | undefined)
        break
      case "connection":
        this.#state.connection = (value as number | undefined) ?? 0
        break
      case "call":
        put(this.#state.calls, id, value as CallRecord | undefined)
        break
      case "report":
        put(this.#state.unacked, id, value as Report | undefined)
        break
      case "recording":
        put(this.#state.recordings, id, value as RecordingRecord | undefined)
        break
    }
  }

  #forgetOldest(draft: Draft): void {
    const { calls, unacked, recordings } = this.#state
    let surplus = calls.size - KEEP_CALLS
    if (surplus <= 0) return
    const waiting = new Set([...unacked.values()].map((report) => report.callId))
    for (const call of calls.values()) {
      const needed = call.endedAt === undefined || waiting.has(call.callId) || recordings.has(call.callId)
      if (surplus <= 0 || needed || draft.changes.has(`call/${call.callId}`)) continue
      draft.changes.set(`call/${call.callId}`, undefined)
      surplus--
    }
  }
}

function put<T>(entries: Map<string, T>, id: string, value: T | undefined): void {
  if (value === undefined) entries.delete(id)
  else entries.set(id, value)
}

function numberOf(value: unknown): number {
  return typeof value === "object" && value !== null && "number" in value ? Number(value.number) : 0
}
