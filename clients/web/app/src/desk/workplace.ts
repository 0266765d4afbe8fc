import {
  type CallEnded,
  type CallRecord,
  type ConfigAnswer,
  type ConfigRequest,
  Desk,
  type DeviceView,
  type DialRequest,
  type LiveCall,
  newId,
  type OptionsAnswer,
  type Profile,
  Refused,
  type Session,
  type State,
} from "@dialdesk/sdk"
import { computed, type InjectionKey, inject, type Ref, ref, shallowRef } from "vue"
import { complain } from "../shared/complain"
import { ElMessage } from "../shared/element"
import { said } from "../shared/failure"
import { kept } from "../shared/kept"
import { i18n } from "../shared/language"
import { play, tell } from "./alerts"
import { Reminders } from "./reminders"

/** A call that is over and waits for its record. */
export interface Ended {
  callId: string
  customerPhone: string
  customerName: string | null
  customerId: string | null
  orderId: string | null
  outcome: string
  cause: string | null
  duration: number | null
  /** The record that was made of it, where it is made anew. */
  record: Draft | null
}

/** Whom an agent clicked on. */
export interface Clicked {
  name: string
  phone: string
}

/** What an agent writes down of a call; kept on this computer until it is saved or skipped. */
export interface Draft {
  result: string
  intention: string
  note: string
  next: string | null
}

export const EMPTY: Draft = { result: "", intention: "", note: "", next: null }

/** The call this person is at; with `edit` one whose record is made anew. */
interface AtHand {
  callId: string
  edit?: boolean
}

/** What all parts of the desk share: the agent, the socket, the call at hand. One a page. */
export class Workplace {
  readonly socket: Desk
  readonly state = shallowRef<State>({ is: "closed" })
  readonly devices = shallowRef<DeviceView[]>([])
  readonly calls = shallowRef<LiveCall[]>([])
  readonly config = shallowRef<ConfigAnswer | null>(null)
  readonly options = shallowRef<OptionsAnswer | null>(null)
  readonly ended = shallowRef<Ended | null>(null)
  readonly dialing = ref(false)
  readonly cancelling = ref<string | null>(null)
  readonly due: Ref<number>
  readonly unrecorded = ref(0)
  /** Moves whenever lists of calls may read differently. */
  readonly moved = ref(0)
  /** The last refusal of a dial or a hang-up: it stands in the dock until the next attempt. */
  readonly refusal = ref("")

  /** The call this person is at, in every tab of this browser and after a reload; null when its record is done. */
  private readonly atHand: Ref<AtHand | null>
  /** Who was clicked on, until the first event of the call tells it. */
  private readonly clicked = shallowRef<(Clicked & { callId: string }) | null>(null)
  private readonly stops: (() => void)[] = []
  private readonly reminders: Reminders

  /** The call the dock shows: the one at hand, else the newest. */
  readonly live = computed(() => {
    const calls = this.calls.value
    const call = calls.find((one) => one.callId === this.atHand.value?.callId) ?? calls.at(-1) ?? null
    const clicked = this.clicked.value
    if (call === null || call.customerPhone || clicked?.callId !== call.callId) return call
    return { ...call, customerName: clicked.name, customerPhone: clicked.phone }
  })

  /** The phone that dials where nothing else is said. */
  readonly device = computed(() => {
    const devices = this.devices.value
    return (
      devices.find((device) => device.id === this.config.value?.deviceId) ??
      devices.find((device) => device.onlineStatus === "online") ??
      devices[0] ??
      null
    )
  })

  readonly byLine = computed(() => this.config.value?.callMethod === "cloud")

  constructor(
    readonly session: Session,
    readonly me: Profile,
  ) {
    this.socket = new Desk(session)
    this.atHand = kept<AtHand | null>(`call:${me.id}`, null)
    this.reminders = new Reminders(session, me.id, () => this.socket.live.serverTime(), remind)
    this.due = this.reminders.due
  }

  /** Read what the desk needs, and connect. */
  open(): void {
    const { socket } = this
    this.stops.push(
      socket.onState((state) => {
        this.state.value = state
      }),
      socket.onLive((live) => {
        this.devices.value = [...live.devices]
        this.calls.value = [...live.calls]
        const newest = live.calls.at(-1)
        if (newest && !live.calls.some((call) => call.callId === this.atHand.value?.callId))
          this.atHand.value = { callId: newest.callId }
      }),
      socket.on("WELCOME", () => void this.catchUp()),
      socket.on("RESYNC", () => {
        void this.catchUp()
        void this.readConfig()
      }),
      socket.on("CALL_CONNECTED", (call, { past }) => {
        this.moved.value++
        if (past) return
        play("connected")
        tell(i18n.global.t("notice.connected", { who: call.customerName ?? call.customerPhone }), call.callId)
      }),
      socket.on("CALL_DIALING", () => this.moved.value++),
      socket.on("CALL_ENDED", (call, { past }) => this.over(call, past)),
      socket.on("RECORDING_READY", () => this.moved.value++),
    )
    addEventListener("storage", this.otherTab)
    this.stops.push(
      () => removeEventListener("storage", this.otherTab),
      () => this.reminders.close(),
    )
    socket.connect().catch(() => {}) // why it stopped is told by its state
    void this.readOptions()
    void this.readConfig()
  }

  /** Leave: the socket closes, nothing is listened to any more. */
  close(): void {
    for (const stop of this.stops.splice(0)) stop()
    this.socket.close()
  }

  async readOptions(): Promise<void> {
    try {
      this.options.value = await this.session.ask("GET /api/v1/calls/options")
    } catch (error) {
      complain(error)
    }
  }

  async readConfig(): Promise<void> {
    try {
      this.config.value = await this.session.ask("GET /api/v1/calls/config")
    } catch (error) {
      complain(error)
    }
  }

  /** Call out so from now on, in every tab. */
  async configure(how: ConfigRequest): Promise<void> {
    this.config.value = await this.session.ask("PUT /api/v1/calls/config", { body: how })
    localStorage.setItem("dialdesk:configured", newId())
  }

  /** Start a call. One click is one call, however often the frame is sent; `clicked` is shown meanwhile. */
  async dial(request: DialRequest, clicked?: Clicked): Promise<void> {
    if (this.dialing.value || this.calls.value.length > 0) return
    this.dialing.value = true
    this.refusal.value = ""
    try {
      const shown = this.config.value && { callMethod: this.config.value.callMethod } // as the bar says, it is done
      const callId = await this.socket.dial({ ...shown, ...request }, { key: newId() })
      this.clicked.value = clicked ? { ...clicked, callId } : null
      this.atHand.value = { callId }
      this.ended.value = null
      this.moved.value++
    } catch (error) {
      this.refusal.value = said(error)
    } finally {
      this.dialing.value = false
    }
  }

  async hangUp(callId: string): Promise<void> {
    this.refusal.value = ""
    this.cancelling.value = callId
    try {
      await this.socket.hangUp(callId)
    } catch (error) {
      this.cancelling.value = null
      this.refusal.value =
        error instanceof Refused && error.code === "HANGUP_UNSUPPORTED" ? i18n.global.t("call.handHangUp") : said(error)
    }
  }

  /** What a hang-up cause means and what to do about it, in the language of the page. */
  cause(code: string | null): { text: string; advice: string } | null {
    return this.options.value?.causes.find((cause) => cause.code === code) ?? null
  }

  /** The record of a call was saved: its draft has done its work. */
  done(callId: string): void {
    localStorage.removeItem(this.draftKey(callId))
    this.leave(callId)
  }

  /** Leave a call's record for later: the dock is free, in every tab; the draft stays. */
  leave(callId: string): void {
    if (this.atHand.value?.callId === callId) this.atHand.value = null
    if (this.ended.value?.callId === callId) this.ended.value = null
    this.moved.value++
    void this.count()
  }

  /** Take up the record of a call that has ended. */
  takeUp(call: CallRecord): void {
    this.atHand.value = { callId: call.callId, edit: call.followUp !== null }
    this.ended.value = endedFrom(call)
  }

  /** Where the draft of a call's record is kept: who signs in next at this browser does not find it. */
  draftKey(callId: string): string {
    return `dialdesk:draft:${this.me.id}:${callId}`
  }

  /** Read what may have happened while the page was away: the call at hand may have ended, lists may have grown. */
  private async catchUp(): Promise<void> {
    this.moved.value++
    void this.count()
    if (this.atHand.value === null) return
    const { callId, edit } = this.atHand.value
    if (this.calls.value.some((call) => call.callId === callId)) return
    if (this.ended.value?.callId === callId) return
    try {
      const { call } = await this.session.ask("GET /api/v1/calls/{call_id}", { path: { call_id: callId } })
      if (call.status !== "ended") return
      if (edit || call.followUp === null) this.ended.value = endedFrom(call)
      else this.done(callId)
    } catch (error) {
      if (error instanceof Refused && error.status === 404) this.atHand.value = null
      else complain(error)
    }
  }

  private over(call: CallEnded, past: boolean): void {
    this.moved.value++
    if (this.cancelling.value === call.callId) this.cancelling.value = null
    if (call.callId === this.atHand.value?.callId && !this.atHand.value.edit) {
      this.ended.value = {
        callId: call.callId,
        customerPhone: call.customerPhone,
        customerName: call.customerName ?? null,
        customerId: call.customerId ?? null,
        orderId: call.orderId ?? null,
        outcome: call.status,
        cause: call.hangupCause,
        duration: call.duration ?? null,
        record: null,
      }
    }
    void this.count()
    if (past || call.enriched) return
    play("ended")
    tell(i18n.global.t("notice.ended", { who: call.customerName ?? call.customerPhone }), call.callId)
  }

  private readonly otherTab = (event: StorageEvent): void => {
    if (event.key === "dialdesk:configured") void this.readConfig()
    if (event.key !== `dialdesk:call:${this.me.id}`) return
    if (this.atHand.value === null) this.ended.value = null
    void this.catchUp()
  }

  /** How much waits. */
  private async count(): Promise<void> {
    void this.reminders.read()
    try {
      const query = { userId: this.me.id, limit: 100 }
      this.unrecorded.value = (await this.session.ask("GET /api/v1/calls/unrecorded", { query })).calls.length
    } catch {
      // the badges stay as they were; the connection bar says what is wrong
    }
  }
}

/** Say that follow-ups have come due: in the page, aloud, and on the desktop. */
function remind(calls: CallRecord[]): void {
  const [first, more] = calls
  if (!first) return
  const who = first.customerName ?? first.customerPhone
  const text = more ? i18n.global.t("notice.dueMany", { n: calls.length }) : i18n.global.t("notice.due", { who })
  ElMessage.warning({ message: text, showClose: true, duration: 10_000 })
  play("due")
  tell(text, `due-${first.callId}`)
}

function endedFrom(call: CallRecord): Ended {
  return {
    callId: call.callId,
    customerPhone: call.customerPhone,
    customerName: call.customerName,
    customerId: call.customerId,
    orderId: call.orderId,
    outcome: call.outcome ?? "unknown",
    cause: call.hangupCause,
    duration: call.duration,
    record: call.followUp && {
      result: call.followUp.result ?? "",
      intention: call.followUp.intention ?? "",
      note: call.followUp.note ?? "",
      next: call.followUp.nextFollowUpAt,
    },
  }
}

const KEY: InjectionKey<Workplace> = Symbol("workplace")

export { KEY as WORKPLACE }

/** The workplace of this page. */
export function useWorkplace(): Workplace {
  const found = inject(KEY)
  if (!found) throw new Error("no workplace")
  return found
}

export { tone } from "../shared/outcome"
