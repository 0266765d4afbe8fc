/** What a page draws: the agent's phones and the calls that have not ended, folded from WELCOME and what follows. */

import type { Message } from "./connection.js"
import type { CallDialing, DeviceView, LiveCall, ToAgent } from "./generated.js"

export interface Live {
  readonly devices: readonly DeviceView[]
  readonly calls: readonly LiveCall[]
  /** The server's clock, epoch milliseconds: what a timer counts from. */
  serverTime(): number
}

const STEPS = { CALL_DIALING: "calling", CALL_RINGING: "ringing", CALL_CONNECTED: "connected" } as const

/** Return what is so after a message that is new to the page; the same object where nothing changed. */
export function fold(live: Live, message: Message<ToAgent>): Live {
  switch (message.type) {
    case "WELCOME": {
      const ahead = message.data.serverTime - Date.now()
      const serverTime = () => Date.now() + ahead
      return { devices: message.data.devices ?? [], calls: message.data.calls ?? [], serverTime }
    }
    case "DEVICE_BOUND": {
      const { device } = message.data
      return { ...live, devices: [...live.devices.filter((known) => known.id !== device.id), device] }
    }
    case "DEVICE_UNBOUND":
      return { ...live, devices: live.devices.filter((known) => known.id !== message.data.deviceId) }
    case "DEVICE_STATUS": {
      const { deviceId, onlineStatus } = message.data
      return {
        ...live,
        devices: live.devices.map((known) => (known.id === deviceId ? { ...known, onlineStatus } : known)),
      }
    }
    case "CALL_DIALING":
    case "CALL_RINGING":
    case "CALL_CONNECTED":
      return { ...live, calls: moved(live.calls, message.data, STEPS[message.type]) }
    case "CALL_ENDED":
      return { ...live, calls: live.calls.filter((known) => known.callId !== message.data.callId) }
    default:
      return live
  }
}

/** Add a call that this page has just dialled, unless events have told of it already. */
export function begun(live: Live, call: LiveCall): Live {
  return live.calls.some((known) => known.callId === call.callId) ? live : { ...live, calls: [...live.calls, call] }
}

function moved(calls: readonly LiveCall[], told: CallDialing, status: LiveCall["status"]): LiveCall[] {
  const { at, evidence: _, source: __, ...fields } = told
  const known = calls.find((call) => call.callId === told.callId)
  const time = new Date(at).toISOString()
  const call: LiveCall = { callMethod: "cloud", createdAt: time, ...known, ...fields, status }
  if (told.deviceId)
    call.callMethod = "mobile" // whoever dialled may only have guessed
  else if (call.callMethod === "mobile") call.callMethod = "cloud"
  if (status === "connected") call.connectedAt = time
  return known === undefined ? [...calls, call] : calls.map((other) => (other === known ? call : other))
}
