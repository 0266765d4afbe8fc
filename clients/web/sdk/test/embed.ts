import { Desk, newId, Refused, TimedOut } from "@dialdesk/sdk"

/** A customer's page: the button calls and hangs up, the line beside it tells how the call goes. */
export async function embed(button: HTMLButtonElement, line: HTMLElement, customer: { id: string; phone: string }) {
  const ticket = async () => (await (await fetch("/crm/dialdesk-ticket", { method: "POST" })).json()).ticket
  const desk = new Desk({ origin: "https://desk.example", ticket })
  const say = (words: string) => {
    line.textContent = words
  }
  desk.onState((state) => {
    button.disabled = state.is !== "online"
    if (state.is === "waiting") say("Connection lost. Calls go on, and this page catches up.")
    if (state.is === "stopped") say(`Calling is off here (${state.code} ${state.reason}): reload the page.`)
  })
  desk.onLive(({ calls: [call] }) => {
    button.textContent = call ? "Hang up" : "Call"
    if (call) say(`${call.customerName ?? call.customerPhone}: ${call.status}`)
  })
  desk.on("CALL_ENDED", ({ status, duration, closedBy }) => say(`${status}, ${duration ?? 0} s, told by: ${closedBy}`))
  button.onclick = async () => {
    const [call] = desk.live.calls
    try {
      if (call) await desk.hangUp(call.callId)
      else await desk.dial({ customerPhone: customer.phone, externalId: customer.id }, { key: newId() })
    } catch (error) {
      if (error instanceof Refused) say(error.message)
      else if (error instanceof TimedOut) say("No answer in time. The call may have begun all the same: wait a moment.")
      else throw error
    }
  }
  await desk.connect()
}
