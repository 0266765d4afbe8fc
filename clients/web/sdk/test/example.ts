import { Desk } from "@dialdesk/sdk"

const desk = new Desk({
  origin: "https://desk.example",
  ticket: async () => (await (await fetch("/crm/dialdesk-ticket", { method: "POST" })).json()).ticket,
})
desk.onState((state) => console.log("connection", state.is))
desk.on("CALL_CONNECTED", ({ customerName, evidence }) => console.log("talking to", customerName, evidence))
desk.on("CALL_ENDED", ({ callId, status, duration }) => console.log("over", callId, status, duration))
await desk.connect()
await desk.dial({ customerPhone: "139 1234 5678", customerId: "C-2201" })
